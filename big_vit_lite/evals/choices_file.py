"""Choice tasks as JSON files: Winoground's, SugarCrepe's, and a general form."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from big_vit_lite.config import InputError
from big_vit_lite.data import files

ENDINGS = (".json", ".jsonl", ".ndjson")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_FORM = '"image" and "captions", as {"image": "1.jpg", "captions": ["right", "wrong"]}'


class Choice(NamedTuple):
    """One choice: which of the captions fits the image; or of two images and two captions, which
    fits which (image 0 to caption 0).

    Attributes:
        name: file and place in it.
        images: paths, one or two.
        answer: number of the right caption of one image.
        category: "" where there are none.
    """

    name: str
    images: tuple[str, ...]
    captions: tuple[str, ...]
    answer: int
    category: str


def read_choices(path: str, images: str | None, key: str) -> list[Choice]:
    """All choices of a file, or of the .json and .jsonl files of a folder.

    Args:
        images: folder of the images; None: that of the file.
        key: the section of the config, for error texts.

    Raises:
        InputError: nothing there, what is no JSON, or an entry in none of the forms.
    """
    path = files.normal(path)
    found = [path]
    if files.is_dir(path):
        names = [name for name in files.children(path)[1] if name.endswith(ENDINGS)]
        found = [files.join(path, name) for name in names]
    if not found or not files.exists(found[0]):
        raise InputError(f"{key}.file: {path} holds no JSON file of choices; give one, or a folder")
    choices = []
    for file in found:
        folder = files.parent(file) if images is None else files.normal(images)
        stem = PurePosixPath(file).stem if len(found) > 1 else ""
        for place, entry in _entries(file, key):
            name = f"{file}, {place}"
            made = _choice(entry, name, stem, key)
            paths = (_place(folder, image) for image in made.images)
            choices.append(made._replace(images=tuple(paths)))
    if not choices:
        raise InputError(f"{key}.file: {path} is empty; it needs {_FORM}")
    return _with_endings(choices)


def _entries(file: str, key: str) -> Iterator[tuple[str, Any]]:
    """(place, entry) of each choice: of a list, of an object of objects, or of lines."""
    try:
        text = files.read(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key}.file: {file} cannot be read ({files.why(error)})") from error
    try:
        whole = json.loads(text)
    except ValueError:
        yield from _lines(file, text, key)
        return
    if isinstance(whole, list):
        yield from ((f"entry {i}", entry) for i, entry in enumerate(whole))
    elif isinstance(whole, dict) and all(isinstance(v, dict) for v in whole.values()):
        yield from ((f"entry {name!r}", entry) for name, entry in whole.items())
    else:
        yield "entry 0", whole


def _lines(file: str, text: str, key: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            raise InputError(f"{key}.file: {file}, line {number} is no JSON: {error}") from None


def _choice(entry: Any, name: str, category: str, key: str) -> Choice:
    """One entry in any of the forms; paths of images as they are written."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{key}.file: {name} is no object; it needs {_FORM}")
    if "filename" in entry:  # SugarCrepe
        images, captions = (
            (entry["filename"],),
            (entry.get("caption"), entry.get("negative_caption")),
        )
    elif "image_0" in entry:  # Winoground
        images = (entry["image_0"], entry.get("image_1"))
        captions = (entry.get("caption_0"), entry.get("caption_1"))
    else:
        images = entry.get("images", [entry.get("image")])
        captions = entry.get("captions", ())
    for what, values in (("image", images), ("caption", captions)):
        if not _are_texts(values):
            raise InputError(f"{key}.file: {name} names no {what}s; it needs {_FORM}")
        if "" in (texts := [value.strip() for value in values]):
            raise InputError(
                f"{key}.file: {name}: {what} {texts.index('')} is empty; write one, or take the "
                "entry out"
            )
    if len(images) > 2 or len(captions) < 2 or (len(images) == 2 and len(captions) != 2):
        raise InputError(
            f"{key}.file: {name} has {len(images)} images and {len(captions)} captions; it needs "
            "one image and some captions, or two of each"
        )
    answer = entry.get("answer", 0)
    if not isinstance(answer, int) or not 0 <= answer < len(captions) or answer and images[1:]:
        raise InputError(
            f"{key}.file: {name}: answer {answer!r} is none of the captions of one image, 0 to "
            f"{len(captions) - 1}; of two images it is always 0"
        )
    category = str(entry.get("category") or entry.get("collapsed_tag") or category)
    if category == "ema":
        raise InputError(
            f"{key}.file: {name} has the category 'ema', the name under which averaged weights are "
            "measured; call it otherwise"
        )
    return Choice(name, tuple(images), tuple(captions), answer, category)


def _are_texts(values: Any) -> bool:
    if not isinstance(values, list | tuple) or not values:
        return False
    return all(isinstance(value, str) for value in values)


def _place(folder: str, image: str) -> str:
    return image if files.is_url(image) or image.startswith("/") else files.join(folder, image)


def _with_endings(choices: list[Choice]) -> list[Choice]:
    """Winoground names its images without an ending: each has that under which it is there, or, so
    that the one which is not is named later, that of the image before it."""
    ending, found = "", []
    for choice in choices:
        images = []
        for image in choice.images:
            if not PurePosixPath(image).suffix:
                if not (ending and files.exists(image + ending)):
                    there = (e for e in IMAGE_ENDINGS if files.exists(image + e))
                    ending = next(there, ending)
                image += ending
            images.append(image)
        found.append(choice._replace(images=tuple(images)))
    return found
