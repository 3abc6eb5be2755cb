"""What is said of classes: published prompts and class names, the config's own, and files.

The published ones lie in assets/ with their source and licence; tools/make_prompt_sets.py wrote
them from the packages that carry them.
"""

import difflib
import functools
import importlib.resources
import json
from collections.abc import Sequence

from big_vit_lite.config import InputError
from big_vit_lite.data import files

NEVER_FIRST = "they tie, and a tie counts as wrong, so that none of them is ever the first"
"""What evaluations make of classes with the same name."""


@functools.cache
def template_sets() -> dict[str, tuple[str, ...]]:
    """Published templates by name: "openai" (80 for ImageNet), "simple" (7), and by data set."""
    return _asset("prompts.json", "templates")


@functools.cache
def name_sets() -> dict[str, tuple[str, ...]]:
    """Published class names by data set, in the order of its labels; "imagenet" has 1000."""
    return _asset("class_names.json", "class_names")


def _asset(file: str, key: str) -> dict[str, tuple[str, ...]]:
    text = importlib.resources.files("big_vit_lite.evals").joinpath("assets", file).read_text()
    return {name: tuple(texts) for name, texts in json.loads(text)[key].items()}


def templates_of(entries: Sequence[str], key: str) -> tuple[str, ...]:
    """Templates, each with {} in it, of entries that are texts, names of sets, or files.

    Args:
        key: the field of the config that holds them, for error texts.

    Raises:
        InputError: an entry that is none of these, or a file without a text or with one without {}.
    """
    found: list[str] = []
    for entry in entries:
        if "{}" in entry:
            found.append(entry)
        elif entry in template_sets():
            found += template_sets()[entry]
        else:
            _require_file(entry, key, tuple(template_sets()), "a text with {} in it")
            for line, text in enumerate(_lines(entry, key, "a text with {} for the class"), 1):
                if "{}" not in text:
                    raise InputError(
                        f"{key}: {entry}, line {line} has no {{}} for the name of the class: "
                        f"{text!r}"
                    )
                found.append(text)
    return tuple(found)


def class_names_of(entry: str | None, of_data: Sequence[str], key: str) -> tuple[str, ...]:
    """How classes are called in prompts, in the order of the labels.

    Args:
        entry: name of a set, a file, or None for the data's own names with blanks for underscores.
        of_data: class names of the data.
        key: the field of the config, for error texts.

    Raises:
        InputError: neither set nor file, an empty file or line, or another number of names than the
            data has classes. Data that knows its classes only by number may use some of the names.
    """
    if entry is None:
        return tuple(name.replace("_", " ") for name in of_data)
    names = name_sets().get(entry)
    if names is None:
        _require_file(entry, key, tuple(name_sets()), "none for the data's own names")
        names = _lines(entry, key, "the name of a class")
    numbered = list(of_data) == [str(i) for i in range(len(of_data))]
    if len(names) < len(of_data) or (len(names) > len(of_data) and not numbered):
        raise InputError(
            f"{key}: {entry} has {len(names)} names, and the data has {len(of_data)} classes; give "
            "one name for each, in the order of the labels"
        )
    return names


def names_of(entry: str, key: str) -> tuple[str, ...]:
    """Names of classes: of a file with one a line, of a published set, or of a text with commas.

    A comma may stand at the end, so that "cat," is one name.

    Args:
        key: the option that holds them, for error texts.

    Raises:
        InputError: none of these, or an empty file or name.
    """
    if entry in name_sets():
        return name_sets()[entry]
    if not _in_commas(entry):
        otherwise = 'names with commas between them (one alone as "cat,")'
        _require_file(entry, key, tuple(name_sets()), otherwise)
        return _lines(entry, key, "the name of a class")
    names = tuple(name.strip() for name in entry.strip().removesuffix(",").split(","))
    if "" in names:
        raise InputError(f"{key}: name {names.index('') + 1} of {entry!r} is empty")
    return names


def _in_commas(entry: str) -> bool:
    return "," in entry and not files.exists(files.normal(entry))


def listed_names(entry: str, key: str) -> tuple[str, ...]:
    """As `names_of`, each once; only published sets may repeat names.

    Raises:
        InputError: as `names_of`, or a name is there twice.
    """
    names, what = names_of(entry, key), "name" if _in_commas(entry) else "line"
    if entry in name_sets():
        return names
    first: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in first:
            where = "" if what == "name" else f"{entry}, "
            raise InputError(
                f"{key}: {where}{what} {place} is {name!r}, and so is {what} {first[name]}; a "
                "class is named once"
            )
        first[name] = place
    return names


def listed_texts(entry: str, key: str) -> tuple[str, ...]:
    """A text, or those of a file with one a line.

    Raises:
        InputError: an empty file or line.
    """
    if files.exists(files.normal(entry)):
        return _lines(entry, key, "a text")
    if not entry.strip():
        raise InputError(f"{key} is empty; it needs a text")
    return (entry,)


def repeated(names: Sequence[str], consequence: str = NEVER_FIRST) -> str | None:
    """A line about names that several classes share, if there are any, and what comes of it."""
    places: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        places.setdefault(name, []).append(label)
    shared = [f"{name!r} ({', '.join(map(str, at))})" for name, at in places.items() if at[1:]]
    if not shared:
        return None
    return f"classes with the same name: {', '.join(shared)}; {consequence}"


def _require_file(entry: str, key: str, sets: Sequence[str], otherwise: str) -> None:
    if files.exists(files.normal(entry)):
        return
    near = difflib.get_close_matches(entry, list(sets), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(
        f"{key}: {entry!r} is neither a published set{hint} nor a file; give {otherwise}, a file "
        f"with one a line, or one of {', '.join(sets)}"
    )


def _lines(path: str, key: str, what: str) -> tuple[str, ...]:
    try:
        lines = files.read(files.normal(path)).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key}: {path} cannot be read ({files.why(error)})") from error
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{key}: {path} is empty; it needs {what} a line")
    if "" in lines:
        raise InputError(f"{key}: {path}, line {lines.index('') + 1} is empty; it needs {what}")
    return tuple(lines)
