"""Which image files are meant by words: files, folders, patterns, URLs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.sources.folder import EXTENSIONS, UNREAD

_WEB = ("http://", "https://")


def find(inputs: Sequence[str], skip_unreadable: bool = False) -> list[str]:
    """Paths of all images, in the order of the inputs, those of a folder sorted.

    Of folders, files with an ending of images are taken; photographs that no decoder here reads
    (.heic and raw files) are among them and fail later, so that they are named and counted.

    Args:
        skip_unreadable: whether such photographs are no mistake.

    Raises:
        InputError: nothing is there, a folder without images, an image that is named twice, a name
            that is no text, or photographs that cannot be read.
    """
    if not inputs:
        raise InputError("there is no INPUT: name images, or folders of images")
    found: list[str] = []
    for entry in inputs:
        try:
            before = len(found)
            found += _of(entry)
        except OSError as error:
            raise InputError(f"{entry} cannot be looked into ({files.why(error)})") from None
        if len(found) == before:
            raise InputError(
                f"{entry} holds no images ({', '.join(EXTENSIONS)}): name a folder that does"
            )
    _require_once(found, len(inputs))
    unread = [path for path in found if path.lower().endswith(UNREAD)]
    if unread and not skip_unreadable:
        raise InputError(
            f"{len(unread):,} of the images are of a kind that cannot be read, the first is "
            f"{unread[0]}: convert them to JPEG, or leave them out with --skip_unreadable"
        )
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InputError(f"the name of {path!r} is no UTF-8: rename the file") from None
    return found


def _of(entry: str) -> Iterator[str]:
    path = files.normal(entry)
    files.require(path, "INPUT")
    if path.startswith(_WEB):  # the web has no folders; what is not there is told when it is read
        yield path
    elif files.is_pattern(path):
        for matched in files.expand(path):
            yield from _below(matched) if files.is_dir(matched) else (matched,)
    elif files.is_dir(path):
        yield from _below(path)
    elif files.exists(path):
        yield path
    else:
        raise InputError(f"{entry} is not there: name an image, a folder of images or a pattern")


def _below(folder: str) -> Iterator[str]:
    for name in files.walk(folder):
        if name.lower().endswith(EXTENSIONS + UNREAD):
            yield files.join(folder, name)


def _require_once(paths: list[str], inputs: int) -> None:
    if inputs == 1 or len(set(paths)) == len(paths):
        return
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise InputError(f"{path} is among the images twice: name each INPUT once")
        seen.add(path)
