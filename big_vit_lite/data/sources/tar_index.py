"""Where each member of a tar shard lies, read from its headers once and kept in a file.

Members form examples by WebDataset's rule: the key is the path up to the first dot of the file's
name, the field is what follows, in small letters.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8, UInt32

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.sources.tar_headers import BLOCK, members, reader

_VERSION = 1


@dataclass(frozen=True)
class Texts:
    """Many short byte strings in one array: text i is data[ends[i - 1] : ends[i]]."""

    data: UInt8[np.ndarray, " bytes"]
    ends: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, texts: list[bytes]) -> Texts:
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(np.frombuffer(b"".join(texts), np.uint8), np.cumsum(sizes))

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()

    def __len__(self) -> int:
        return len(self.ends)

    def all(self) -> Iterator[bytes]:
        data, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield data[start:end]
            start = end


@dataclass(frozen=True)
class Index:
    """The examples of one shard, in the order of their first members.

    Attributes:
      fingerprint: of the file when it was read.
      fields: the endings that occur.
      keys: the key of each example.
      first: members first[i] .. first[i + 1] - 1 belong to example i.
      field: index into `fields`; start, size: the member's bytes in the file; check: CRC-32 of the
        header right before them. All are in the order of examples.
      contents: bytes of a small field, one for each example, empty where it has none.
    """

    fingerprint: str
    fields: tuple[str, ...]
    keys: Texts
    first: Int[np.ndarray, " n_plus_1"]
    field: Int[np.ndarray, " members"]
    start: Int[np.ndarray, " members"]
    size: Int[np.ndarray, " members"]
    check: UInt32[np.ndarray, " members"]
    contents: dict[str, Texts]

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, i: int) -> dict[str, int]:
        """Field -> member of example i."""
        rows = range(self.first[i], self.first[i + 1])
        return {self.fields[self.field[row]]: row for row in rows}


def open_index(path: str, keep: frozenset[str] = frozenset(), where: str = "data.train") -> Index:
    """The index of a shard, from its file if there is one for this very shard, else made and kept.

    It is kept as SHARD.index.npz, or in the user's cache where that cannot be written or the shard
    lies on a store. Processes that make it at the same time each put a whole file in place.

    Args:
      keep: fields whose bytes the index is to hold, such as "cls".

    Raises:
      InputError: the shard is compressed, broken, or holds a member twice.
      OSError: it cannot be read.
    """
    fingerprint = files.fingerprint(path)
    places = _places(path)
    for place in places:
        known = _load(place)
        if known is None or known.fingerprint != fingerprint:
            continue
        if keep <= known.contents.keys():
            return known
        keep |= known.contents.keys()
    index = scan(path, keep, where, fingerprint)
    if files.fingerprint(path) != fingerprint:
        raise InputError(
            f"{where}.path: {path} changed while it was read; wait until it is written"
        )
    for place in places:
        if _save(index, place):
            break
    return index


def scan(path: str, keep: frozenset[str], where: str, fingerprint: str = "") -> Index:
    """Reads all headers of a shard. Arguments and errors are those of `open_index`."""
    keys: dict[str, int] = {}
    fields: dict[str, int] = {}
    rows: list[tuple[int, int, int, int, int]] = []
    contents: dict[str, dict[int, bytes]] = {field: {} for field in keep}
    with files.open_binary(path) as file:
        read_at = reader(file)
        try:
            for name, start, size, check in members(read_at):
                slash = name.rfind("/")
                dot = name.find(".", slash + 1)
                if dot <= slash + 1:  # no ending, or a hidden file
                    continue
                field = name[dot + 1 :].lower()
                example = keys.setdefault(name[:dot], len(keys))
                rows.append((example, fields.setdefault(field, len(fields)), start, size, check))
                if field in contents:
                    contents[field][example] = read_at(start, size)
        except ValueError as error:
            raise InputError(f"{where}.path: {path} {error}") from None
    table = np.array(rows, np.int64).reshape(-1, 5)
    table = table[np.argsort(table[:, 0], kind="stable")]
    names = list(keys)
    _refuse_twins(table, names, list(fields), path, where)
    return Index(
        fingerprint,
        tuple(fields),
        Texts.of([name.encode("utf-8", "surrogateescape") for name in names]),
        np.searchsorted(table[:, 0], np.arange(len(names) + 1)).astype(np.int32),
        table[:, 1].astype(np.uint16),
        table[:, 2].copy(),
        table[:, 3].copy(),
        table[:, 4].astype(np.uint32),
        {
            field: Texts.of([found.get(i, b"") for i in range(len(names))])
            for field, found in contents.items()
        },
    )


def _refuse_twins(table: np.ndarray, keys: list[str], fields: list[str], path: str, where: str):
    member = table[:, 0] * max(1, len(fields)) + table[:, 1]
    order = np.argsort(member, kind="stable")
    twins = np.flatnonzero(np.diff(member[order]) == 0)
    if twins.size:
        example, field, start = table[order[twins[0] + 1], :3]
        raise InputError(
            f"{where}.path: {path} holds {keys[example]}.{fields[field]} twice (again at byte "
            f"{start - BLOCK}); give each example a key of its own"
        )


def _places(path: str) -> list[Path]:
    """Where the index may be kept, the best place first."""
    if path.startswith("memory://"):
        return []
    full = path if files.is_url(path) else os.path.abspath(path)
    name = f"{hashlib.sha256(full.encode(errors='surrogateescape')).hexdigest()[:32]}.npz"
    shared = files.cache_folder() / "tar" / name
    return [shared] if files.is_url(path) else [Path(f"{full}.index.npz"), shared]


_ARRAYS = ("first", "field", "start", "size", "check")


def _save(index: Index, place: Path) -> bool:
    """Puts the whole file in place at once; False where the place cannot be written."""
    fields = [*index.contents]
    texts = {"keys": index.keys, **{f"content{i}": index.contents[f] for i, f in enumerate(fields)}}
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    arrays |= {f"{name}.data": text.data for name, text in texts.items()}
    arrays |= {f"{name}.ends": text.ends for name, text in texts.items()}
    words = ("\0".join(index.fields), "\0".join(fields), index.fingerprint)
    about = Texts.of([word.encode("utf-8", "surrogateescape") for word in words])
    arrays |= {"version": np.array(_VERSION), "about.data": about.data, "about.ends": about.ends}
    written = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".part", delete=False) as file:
            written = file.name
            np.savez(file, **arrays)
        os.chmod(written, 0o644)  # others on the machine read it, too
        os.replace(written, place)
    except OSError:
        if written is not None and os.path.exists(written):
            os.unlink(written)
        return False
    return True


def _load(place: Path) -> Index | None:
    """The index in a file; None where there is none that can be read."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            if stored["version"] != _VERSION:
                return None
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None

    def texts(name: str) -> Texts:
        return Texts(arrays[f"{name}.data"], arrays[f"{name}.ends"])

    words = [word.decode("utf-8", "surrogateescape") for word in texts("about").all()]
    fields, kept = (tuple(word.split("\0")) if word else () for word in words[:2])
    return Index(
        words[2],
        fields,
        texts("keys"),
        *(arrays[name] for name in _ARRAYS),
        {field: texts(f"content{i}") for i, field in enumerate(kept)},
    )
