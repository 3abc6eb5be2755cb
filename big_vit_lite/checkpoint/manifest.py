"""The commit mark of a checkpoint: manifest.json, the size and sha256 of every file beside it.

A directory is a checkpoint if, and only if, its manifest is there. The manifest is written last
and appears at once, by an atomic rename or as one object of a store, so a process killed at any
moment leaves either a whole checkpoint or a directory without a manifest, which the next start
removes. Orbax alone loads a flipped byte without a word; the manifest finds it.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from big_vit_lite import storage
from big_vit_lite.config import InputError
from big_vit_lite.storage import Place

NAME = "manifest.json"
_AT_ONCE = 8  # files of a store that are read at the same time; a disk reads one after the other


def is_committed(directory: Place) -> bool:
    """Whether the directory holds a finished checkpoint."""
    return (directory / NAME).is_file()


def commit(directory: Place) -> None:
    """Hashes every file below `directory` and writes its manifest, atomically and durably.

    Raises:
        OSError: if a file cannot be read or the manifest cannot be written.
    """
    sizes = _files(directory)
    hashes = _hashes(directory, list(sizes))
    files = {name: {"bytes": size, "sha256": hashes[name]} for name, size in sizes.items()}
    if isinstance(directory, Path):  # older checkpoints go once this one stands: all on the disk
        for name in sizes:
            _sync_file(directory / name)
        for folder in {(directory / name).parent for name in sizes}:
            storage.sync_folder(folder)
    storage.replace(directory / NAME, json.dumps({"format": 1, "files": files}, indent=1).encode())
    if isinstance(directory, Path):
        storage.sync_folder(directory.parent)


def identity(directory: Place) -> str:
    """Of a checkpoint by what it holds, wherever it lies: 16 hex digits."""
    return hashlib.sha256((directory / NAME).read_bytes()).hexdigest()[:16]


def revoke(directory: Place) -> None:
    """Takes the commit mark away: from here on the directory is a leftover, to be removed."""
    (directory / NAME).unlink(missing_ok=True)
    if isinstance(directory, Path):
        storage.sync_folder(directory)


class Damage(InputError):
    """A checkpoint is not what was written; another one may be."""


def verify(directory: Place) -> None:
    """Reads every file of a checkpoint and compares it with the manifest.

    Raises:
        Damage: naming the first file that is missing, truncated, altered or left over.
    """
    wanted = check_sizes(directory)
    hashes = _hashes(directory, list(wanted))
    for name, entry in wanted.items():
        if hashes[name] != entry["sha256"]:
            raise Damage(
                f"checkpoint {directory} is damaged: the file {name} has changed since it was "
                "written (its sha256 differs)"
            )


def check_sizes(directory: Place) -> dict[str, dict]:
    """Compares which files a checkpoint has, and their sizes, with the manifest; reads none else.

    Returns:
        {name: {"bytes": size, "sha256": hex digits}} of the manifest.

    Raises:
        Damage: as `verify`, but for a file that was altered and kept its size.
    """
    wanted, found = _read(directory), _files(directory)
    for name, entry in wanted.items():
        if name not in found:
            raise Damage(f"checkpoint {directory} is damaged: the file {name} is missing")
        if found[name] != entry["bytes"]:
            raise Damage(
                f"checkpoint {directory} is damaged: the file {name} has {found[name]} bytes "
                f"instead of {entry['bytes']}"
            )
    for name in found.keys() - wanted.keys():
        raise Damage(f"checkpoint {directory} is damaged: the file {name} does not belong to it")
    return wanted


def _read(directory: Place) -> dict[str, dict]:
    try:
        content = json.loads((directory / NAME).read_bytes())
        files = {str(k): {"bytes": v["bytes"], "sha256": v["sha256"]}
                 for k, v in content["files"].items()}  # fmt: skip
    except FileNotFoundError:
        raise Damage(f"checkpoint {directory} is not complete: it has no {NAME}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damage(f"checkpoint {directory} is damaged: {NAME} cannot be read") from None
    return files


def _files(directory: Place) -> dict[str, int]:
    """{name: bytes} of the files of a checkpoint but for the manifest itself, in a fixed order."""
    found = storage.files_below(directory)
    return {name: size for name, size in found.items() if name not in (NAME, f"{NAME}.tmp")}


def _hashes(directory: Place, names: list[str]) -> dict[str, str]:
    """The sha256 of each file, read from where it lies: what a store holds, not what was sent."""
    if isinstance(directory, Path):
        return {name: _sha256(directory / name) for name in names}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        hashes = pool.map(lambda name: _sha256(directory / name), names)
        return dict(zip(names, hashes, strict=True))


def _sha256(path: Place) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
