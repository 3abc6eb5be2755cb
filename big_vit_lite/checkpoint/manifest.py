"""The commit mark of a checkpoint: manifest.json, the size and sha256 of every file beside it.

A directory is a checkpoint if, and only if, its manifest is there. The manifest is written last
and appears in one atomic rename, so a process killed at any moment leaves either a whole
checkpoint or a directory without a manifest, which the next start removes. Orbax alone loads a
flipped byte without a word; the manifest finds it.
"""

import hashlib
import json
import os
from pathlib import Path

from big_vit_lite.config import InputError

NAME = "manifest.json"


def is_committed(directory: Path) -> bool:
    """Whether the directory holds a finished checkpoint."""
    return (directory / NAME).is_file()


def commit(directory: Path) -> None:
    """Hashes every file below `directory` and writes its manifest, atomically and durably.

    Raises:
        OSError: if a file cannot be read or the manifest cannot be written.
    """
    files = {str(path.relative_to(directory)): _entry(path) for path in _files(directory)}
    temporary = directory / f"{NAME}.tmp"
    with open(temporary, "w") as file:
        json.dump({"format": 1, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder in {path.parent for path in _files(directory)}:
        _sync_folder(folder)
    os.replace(temporary, directory / NAME)
    _sync_folder(directory)
    _sync_folder(directory.parent)


def revoke(directory: Path) -> None:
    """Takes the commit mark away: from here on the directory is a leftover, to be removed."""
    (directory / NAME).unlink(missing_ok=True)
    _sync_folder(directory)


def verify(directory: Path) -> None:
    """Reads every file of a checkpoint and compares it with the manifest.

    Raises:
        InputError: naming the first file that is missing, truncated, altered or left over.
    """
    wanted = _read(directory)
    found = {str(path.relative_to(directory)): path for path in _files(directory)}
    for name, entry in wanted.items():
        if name not in found:
            raise InputError(f"checkpoint {directory} is damaged: the file {name} is missing")
        size = found[name].stat().st_size
        if size != entry["bytes"]:
            raise InputError(
                f"checkpoint {directory} is damaged: the file {name} has {size} bytes "
                f"instead of {entry['bytes']}"
            )
        if _sha256(found[name]) != entry["sha256"]:
            raise InputError(
                f"checkpoint {directory} is damaged: the file {name} has changed since it was "
                "written (its sha256 differs)"
            )
    for name in found.keys() - wanted.keys():
        raise InputError(
            f"checkpoint {directory} is damaged: the file {name} does not belong to it"
        )


def _read(directory: Path) -> dict[str, dict]:
    try:
        content = json.loads((directory / NAME).read_bytes())
        files = {str(k): {"bytes": v["bytes"], "sha256": v["sha256"]}
                 for k, v in content["files"].items()}  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"checkpoint {directory} is not complete: it has no {NAME}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"checkpoint {directory} is damaged: {NAME} cannot be read") from None
    return files


def _files(directory: Path) -> list[Path]:
    """The files of a checkpoint but for the manifest itself, in a fixed order."""
    ours = {directory / NAME, directory / f"{NAME}.tmp"}
    return sorted(path for path in directory.rglob("*") if path.is_file() and path not in ours)


def _entry(path: Path) -> dict:
    digest = _sha256(path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # older checkpoints go once this one stands: it must be on disk
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
