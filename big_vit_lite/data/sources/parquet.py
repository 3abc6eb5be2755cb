"""Parquet shards as dataset hubs ship them: image = struct(bytes, path), label = int64.

Class names come from the schema metadata (key "huggingface"). Row groups are read whole, because
Parquet compresses them so, and the last ones used stay in memory up to ROW_GROUP_BYTES: a data set
below that bound is read from disk once. A shuffled pass over a much larger one reads a row group
for nearly every image; such data belongs in a format with single-record access.
"""

from __future__ import annotations

import bisect
import difflib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data.sources.base import Example, Source

ROW_GROUP_BYTES = 1 << 30
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d+)-of-(?P<total>\d+)")


class Parquet(Source):
    """Rows of `split-*.parquet` in the order of the shards.

    Args:
      path: one file, or a folder that holds the shards itself, in data/ or in its only sub-folder.
      split: "train", "test", ...; None where the folder holds only one.

    Raises:
      InputError: nothing at the path, a missing shard, an unreadable file or an unknown column.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        image_key: str,
        label_key: str,
        where: str = "data.train",
    ):
        self._files = _shards(Path(path).expanduser(), split, where)
        self._image_key, self._label_key, self._where = image_key, label_key, where
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        self._first_row: dict[Path, int] = {}
        rows = 0
        for file in self._files:
            self._first_row[file] = rows
            with _open(file, where) as opened:
                names = opened.schema_arrow.names
                for key, column in (("image_key", image_key), ("label_key", label_key)):
                    _require(column, names, f"{where}.{key}", file)
                schema = opened.schema_arrow
                for group in range(opened.num_row_groups):
                    self._groups.append((file, group))
                    self._starts.append(rows)
                    rows += opened.metadata.row_group(group).num_rows
        if not rows:
            raise InputError(f"{where}.path: {self._files[0]} holds no rows")
        self._rows = rows
        self._label_of = self._read_classes(schema)
        self._start_cache()

    def _start_cache(self) -> None:
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._reading = [threading.Lock() for _ in self._groups]

    def __getstate__(self) -> dict:
        leave = ("_cache", "_cached_bytes", "_lock", "_reading")
        return {key: value for key, value in self.__dict__.items() if key not in leave}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self._rows:
            raise IndexError(i)
        group = bisect.bisect_right(self._starts, i) - 1
        images, labels = self._group(group)
        row = i - self._starts[group]
        image, label = images[row].as_py(), self._number(labels[row].as_py())
        if not image:
            raise RunError(f"{self.name_of(i)}: column {self._image_key!r} holds no image bytes")
        if label is None or not 0 <= label < len(self.class_names):
            raise RunError(
                f"{self.name_of(i)}: label {labels[row].as_py()!r} is not one of the "
                f"{len(self.class_names)} classes; correct the row or leave it out with a part"
            )
        return {"image": image, "label": label}

    def labels(self) -> Int[np.ndarray, " n"]:
        values = [self._number(v) for v in _column(self._files, self._label_key, self._where)]
        if None in values:
            row = values.index(None)
            raise InputError(
                f"{self.name_of(row)}: column {self._label_key!r} holds no known label"
            )
        return np.array(values, np.int64)

    def name_of(self, i: int) -> str:
        group = bisect.bisect_right(self._starts, i) - 1
        file, _ = self._groups[group]
        return f"{file}, row {i - self._first_row[file]}"

    def _number(self, value: Any) -> int | None:
        return value if self._label_of is None else self._label_of.get(value)

    def _read_classes(self, schema: Any) -> dict[str, int] | None:
        """Sets class_names; returns the numbering where labels are stored as text."""
        import pyarrow.types as types

        kind = schema.field(self._label_key).type
        if not types.is_integer(kind):
            if not (types.is_string(kind) or types.is_large_string(kind)):
                raise InputError(
                    f"{self._where}.label_key: column {self._label_key!r} of {self._files[0]} "
                    f"holds {kind}; labels are whole numbers or text"
                )
            values = set(_column(self._files, self._label_key, self._where)) - {None}
            self.class_names = tuple(sorted(values))
            return {name: i for i, name in enumerate(self.class_names)}
        named = _hub_names(schema, self._label_key)
        if named is None:
            known = _column(self._files, self._label_key, self._where)
            largest = max((v for v in known if v is not None), default=-1)
            named = tuple(str(i) for i in range(largest + 1))
        self.class_names = named
        return None

    def _group(self, group: int) -> tuple[Any, Any]:
        """Images (bytes) and labels of a row group, from memory where it was used lately."""
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group][0]
        with self._reading[group]:  # several threads may want it: one reads
            with self._lock:
                if group in self._cache:
                    return self._cache[group][0]
            columns, size = self._read(group)
            with self._lock:
                self._cache[group] = columns, size
                self._cached_bytes += size
                while self._cached_bytes > ROW_GROUP_BYTES and len(self._cache) > 1:
                    _, (_, dropped) = self._cache.popitem(last=False)
                    self._cached_bytes -= dropped
        return columns

    def _read(self, group: int) -> tuple[tuple[Any, Any], int]:
        import pyarrow as pa

        file, number = self._groups[group]
        try:
            with _open(file, self._where) as opened:
                table = opened.read_row_group(number, [self._image_key, self._label_key])
        except (pa.ArrowException, OSError, InputError) as error:
            raise RunError(
                f"{file}: row group {number} cannot be read ({_first_line(error)}); "
                "copy the file again"
            ) from error
        table = table.combine_chunks()
        images, labels = (table.column(key).chunk(0) for key in (self._image_key, self._label_key))
        if pa.types.is_struct(images.type):
            images = images.field("bytes")
        return (images, labels), table.nbytes


def _open(file: Path, where: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{where}.path: {file} cannot be read as Parquet ({_first_line(error)}); "
            "copy the file again"
        ) from error


def _column(files: list[Path], key: str, where: str) -> list:
    values = []
    for file in files:
        with _open(file, where) as opened:
            values += opened.read([key]).column(key).to_pylist()
    return values


def _hub_names(schema: Any, key: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[key]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _require(column: str, names: list[str], key: str, file: Path) -> None:
    if column in names:
        return
    near = difflib.get_close_matches(column, names, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(
        f"{key}: {file} has no column {column!r}{hint}; its columns are: {', '.join(names)}"
    )


def _shards(path: Path, split: str | None, where: str) -> list[Path]:
    """The shards of the split in order, all of them there."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{where}.path: {path} does not exist; give a Parquet file or its folder")
    files = _found(path)
    if not files:
        raise InputError(
            f"{where}.path: neither {path} nor {path / 'data'} nor its only folder with such files "
            "holds *.parquet; give the folder that does"
        )
    splits = sorted({_split_of(file) for file in files})
    if split is None and len(splits) > 1:
        raise InputError(f"{where}.split is not set: {path} holds {', '.join(splits)}; name one")
    if split is not None and split not in splits:
        raise InputError(
            f"{where}.split: {path} has no {split}-*.parquet; its splits are: {', '.join(splits)}"
        )
    chosen = [file for file in files if split is None or _split_of(file) == split]
    _require_all(chosen, where)
    return chosen


def _found(path: Path) -> list[Path]:
    """Shards in the folder, in data/, or in its only sub-folder that has any."""
    for folder in (path, path / "data"):
        if files := sorted(folder.glob("*.parquet")):
            return files
    inner = sorted(path.glob("*/*.parquet"))
    return inner if len({file.parent for file in inner}) == 1 else []


def _split_of(file: Path) -> str:
    match = _SHARD.fullmatch(file.stem)
    return match["split"] if match else file.stem


def _require_all(files: Iterable[Path], where: str) -> None:
    """A shard that was not copied would otherwise be examples lost in silence."""
    matches = [m for file in files if (m := _SHARD.fullmatch(file.stem))]
    if not matches:
        return
    there = {int(m["number"]) for m in matches}
    total = max(int(m["total"]) for m in matches)
    missing = sorted(set(range(total)) - there)
    if missing:
        m = matches[0]
        name = f"{m['split']}-{missing[0]:0{len(m['number'])}d}-of-{m['total']}.parquet"
        raise InputError(
            f"{where}.path: {len(missing)} of {total} shards are missing, the first is {name}; "
            "copy the data set again"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
