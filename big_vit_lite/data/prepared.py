"""What lies beside prepared shards, and whether all of it is as it was written.

    checksums.json    sha256, bytes, records and what was left out of each file; the options
    skipped.txt       what was left out, and why, for people
    schema.json       for ArrayRecord: what a record is, see `records`
    labels.npz        for ArrayRecord: label numbers of each shard

Several splits may share a folder and these files.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from big_vit_lite.config import InputError, RunError, Split
from big_vit_lite.data import files, records

SKIPPED = "skipped.txt"


@dataclass(frozen=True)
class Shard:
    """Notes on a finished shard."""

    sha256: str
    bytes: int
    records: int
    labels: list[int]
    skipped: list[str]


def write_checksums(
    out: Path,
    name: str,
    shards: Mapping[str, Shard],
    settings: dict[str, Any],
    with_labels: bool,
) -> None:
    """Adds the finished split `name` to checksums.json, skipped.txt and labels.npz."""
    stored = checksums(out)
    for shard, notes in shards.items():
        entry = dataclasses.asdict(notes)
        del entry["labels"]
        stored["files"][shard] = entry
    stored["prepared"][name] = settings
    if with_labels:
        labels = {shard: notes.labels for shard, notes in shards.items()}
        stored["files"][records.LABELS] = _write_labels(out / records.LABELS, labels)
    entries = [stored["files"][file] for file in sorted(stored["files"])]
    lines = [f"{line}\n" for entry in entries for line in entry.get("skipped", ())]
    if lines:
        _replace(out / SKIPPED, "".join(lines).encode())
    else:
        (out / SKIPPED).unlink(missing_ok=True)
    write_json(out / records.CHECKSUMS, stored)


def write_schema(
    out: Path,
    counts: dict[str, int],
    class_names: tuple[str, ...] | None,
    captions: bool,
    image: str = "image",
) -> None:
    """schema.json with the records of further splits; `image` is the field in its place."""
    schema: dict[str, Any] = {"encoding": "msgpack", "image": image, "records": {}}
    if (out / records.SCHEMA).exists():
        schema |= json.loads((out / records.SCHEMA).read_bytes())
    if class_names is not None:
        schema |= {"label": "label", "class_names": class_names}
    if captions:
        schema["caption"] = "caption"
    schema["records"] |= counts
    write_json(out / records.SCHEMA, schema)


def finished(out: Path, work: Path, names: list[str], with_labels: bool) -> dict[str, Shard]:
    """Notes on the shards `names` that were finished, from the run or from checksums.json."""
    entries, tables = checksums(out)["files"], {}
    if with_labels:
        with suppress(OSError, ValueError), np.load(out / records.LABELS) as stored:
            tables = {name: stored[name].tolist() for name in stored.files}
    found = {}
    for name in names:
        if name in entries and (name in tables or not with_labels):
            found[name] = Shard(labels=tables.get(name, []), **entries[name])
        with suppress(FileNotFoundError, ValueError, TypeError):
            found[name] = Shard(**json.loads((work / f"{name}.json").read_bytes()))
    return found


def verify(out: Path) -> tuple[int, int]:
    """Reads every file of checksums.json again; returns how many files and bytes it were.

    Raises:
      InputError: no checksums there.
      RunError: one line for each file that is missing or has changed, and for each unfinished
        split.
    """
    entries = checksums(out)["files"]
    unfinished = [path.name.removeprefix(".prepare-") for path in sorted(out.glob(".prepare-*"))]
    if not entries and not unfinished:
        raise InputError(f"--out: {out} has no {records.CHECKSUMS}; nothing was prepared there")

    def check(item: tuple[str, dict[str, Any]]) -> str | None:
        path = out / item[0]
        try:
            changed = sha256(path) != item[1]["sha256"]
        except OSError as error:
            return f"{path} cannot be read ({files.why(error)}); prepare or copy it again"
        return f"{path} has changed; delete it and prepare or copy it again" if changed else None

    with ThreadPoolExecutor(4) as pool:
        faults = [fault for fault in pool.map(check, sorted(entries.items())) if fault]
    faults += [f"{out}: {name!r} is unfinished; start it again" for name in unfinished]
    if faults:
        raise RunError("\n".join(faults))
    return len(entries), sum(entry["bytes"] for entry in entries.values())


def checksums(out: Path) -> dict[str, dict[str, Any]]:
    """checksums.json: "files" by name, and the options of each "prepared" split."""
    try:
        stored = json.loads((out / records.CHECKSUMS).read_bytes())
        return {"files": dict(stored["files"]), "prepared": dict(stored["prepared"])}
    except FileNotFoundError:
        return {"files": {}, "prepared": {}}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"--out: {out / records.CHECKSUMS} cannot be read; give another folder"
        ) from None


def made_by(split: Split) -> dict[str, Any] | None:
    """All that the stored features of a split depend on, as `computed.Computed` names it; None
    where its folder does not say it."""
    name, where = split.split, files.join(files.normal(split.path or ""), records.CHECKSUMS)
    try:
        stored = json.loads(files.read(where))["prepared"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if name is None and len(stored) == 1:
        (name,) = stored
    found = stored.get(name)
    return found if isinstance(found, dict) and "tower" in found else None


@contextmanager
def locked(folder: Path, taken: str | None = None) -> Iterator[None]:
    """Keeps a second process out; the system lets go of the lock when this one dies.

    Args:
        taken: what the second process is told; by default that the folder is being prepared.
    """
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = taken or f"--out: another process is preparing {folder.parent}"
            raise InputError(told) from None
        except OSError:  # disks that know no locks
            pass
        yield


def _write_labels(file: Path, labels: dict[str, list[int]]) -> dict[str, Any]:
    """Adds the labels of these shards to labels.npz; returns its entry in checksums.json."""
    tables = {name: np.array(values, np.int32) for name, values in labels.items()}
    with suppress(FileNotFoundError), np.load(file) as stored:
        tables |= {name: stored[name] for name in stored.files if name not in tables}
    part = file.with_suffix(".part")
    with open(part, "wb") as opened:
        np.savez(opened, **dict(sorted(tables.items())))
    size = sync(part)
    os.replace(part, file)
    return {"sha256": sha256(file), "bytes": size}


def write_json(file: Path, content: Any) -> None:
    _replace(file, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _replace(file: Path, data: bytes) -> None:
    """Writes the file so that it is the old or the new one whenever the process may die."""
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_bytes(data)
        sync(part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def sync(file: Path) -> int:
    """Its size, when its bytes are on the disk."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        return os.fstat(opened.fileno()).st_size


def sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
