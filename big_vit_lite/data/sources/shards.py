"""Which files make up a split that is stored as shards, and that none of them is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from big_vit_lite.config import InputError
from big_vit_lite.data import files

_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d+)-of-(?P<total>\d+)")
_NUMBERED = re.compile(r"(?P<split>.+?)[-_.]\d+")


def find(path: str, split: str | None, ending: str, what: str, where: str) -> list[str]:
    """The shards of `split` in order.

    Args:
      path: a file, a folder (shards in it, in its data/ or in its only sub-folder with any), or a
        pattern with {00000..00099}, {a,b}, * or ?; local or a URL.
      split: shards SPLIT-*, SPLIT itself, or all that begin with it; None: where there is only one.
      ending: of the files, such as ".tar".
      what: the format, for error texts, such as "tar".

    Raises:
      InputError: nothing there, a split that must be named or is not there, a missing shard.
    """
    path = files.normal(path)
    if files.is_pattern(path):
        return _of_pattern(path, where)
    if files.is_file(path):
        return [path]
    if not files.is_dir(path):
        raise InputError(f"{where}.path: {path} does not exist; give a {what} file or its folder")
    folder, names = _of_folder(path, ending)
    if not names:
        raise InputError(
            f"{where}.path: neither {path} nor {files.join(path, 'data')} nor its only folder with "
            f"such files holds *{ending}; give the folder that does"
        )
    chosen = _of_split(names, split, ending, f"{where}.split", path)
    _require_all(chosen, ending, where)
    return [files.join(folder, name) for name in chosen]


def _of_pattern(pattern: str, where: str) -> list[str]:
    try:
        paths = files.expand(pattern)
    except ValueError as error:
        raise InputError(f"{where}.path: {pattern}: {error}") from None
    listed = {folder: _names(folder) for folder in {files.parent(path) for path in paths}}
    missing = [path for path in paths if files.name_of(path) not in listed[files.parent(path)]]
    if not paths or len(missing) == len(paths):
        raise InputError(f"{where}.path: no file is named {pattern}; check the folder and numbers")
    if missing:
        raise InputError(
            f"{where}.path: {len(missing)} of {len(paths)} shards of {pattern} are missing, the "
            f"first is {missing[0]}; copy the data set again or give fewer numbers"
        )
    return paths


def _names(folder: str) -> set[str]:
    folder = folder or "."
    return set(files.children(folder)[1]) if files.is_dir(folder) else set()


def _of_folder(path: str, ending: str) -> tuple[str, list[str]]:
    folders, _ = files.children(path)
    for folder in [path, *(files.join(path, name) for name in folders if name == "data")]:
        if names := _with_ending(folder, ending):
            return folder, names
    inner = [
        (folder, _with_ending(folder, ending))
        for folder in (files.join(path, name) for name in folders)
    ]
    inner = [(folder, names) for folder, names in inner if names]
    return inner[0] if len(inner) == 1 else (path, [])


def _with_ending(folder: str, ending: str) -> list[str]:
    return [name for name in files.children(folder)[1] if name.endswith(ending)]


def _of_split(names: list[str], split: str | None, ending: str, key: str, path: str) -> list[str]:
    of_name = {name: _split_of(name.removesuffix(ending)) for name in names}
    splits = sorted(set(of_name.values()))
    if split is None:
        if len(splits) > 1:
            raise InputError(f"{key} is not set: {path} holds {', '.join(splits[:10])}; name one")
        return names
    if split not in splits:
        begin = [name for name in names if name.startswith(split)]
        if not begin:
            raise InputError(
                f"{key}: {path} has no {split}-*{ending}; its splits are: {', '.join(splits[:10])}"
            )
        return begin
    return [name for name in names if of_name[name] == split]


def _split_of(stem: str) -> str:
    """train-00000-of-00002 and train-00000: train; 00000: the numbers have no name."""
    if match := _SHARD.fullmatch(stem) or _NUMBERED.fullmatch(stem):
        return match["split"]
    return "" if stem.isdigit() else stem


def _require_all(names: Iterable[str], ending: str, where: str) -> None:
    """A shard that was not copied would otherwise be examples lost in silence."""
    matches = [m for name in names if (m := _SHARD.fullmatch(name.removesuffix(ending)))]
    if not matches:
        return
    there = {int(m["number"]) for m in matches}
    total = max(int(m["total"]) for m in matches)
    missing = sorted(set(range(total)) - there)
    if missing:
        m = matches[0]
        name = f"{m['split']}-{missing[0]:0{len(m['number'])}d}-of-{m['total']}{ending}"
        raise InputError(
            f"{where}.path: {len(missing)} of {total} shards are missing, the first is {name}; "
            "copy the data set again"
        )
