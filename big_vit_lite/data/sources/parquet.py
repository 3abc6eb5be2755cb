"""Parquet shards as dataset hubs ship them: image = struct(bytes, path) or binary, label, caption.

Class names come from the schema metadata (key "huggingface"). Row groups are read whole, because
Parquet compresses them so, and the last ones used stay in memory up to ROW_GROUP_BYTES: a data set
below that bound is read from disk once. A shuffled pass over a much larger one reads a row group
for nearly every image; such data belongs in a format with single-record access.
"""

from __future__ import annotations

import bisect
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data import files
from big_vit_lite.data.sources import classes, columns, shards
from big_vit_lite.data.sources.base import BadExample, Columns, Example, Source, captions_of

ROW_GROUP_BYTES = 1 << 30


class Parquet(Source):
    """Rows of `split-*.parquet` in the order of the shards.

    Args:
      path: one file, a pattern, or a folder that holds the shards itself, in data/ or in its only
        sub-folder; local or a URL.
      split: "train", "test", ...; None where the folder holds only one.
      names: class names in the order of the label numbers; None: those of the schema metadata, or
        the labels themselves.

    Raises:
      InputError: nothing at the path, a missing shard, an unreadable file or an unknown column.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        wanted: Columns,
        names: tuple[str, ...] | None = None,
        where: str = "data.train",
    ):
        self._files = shards.find(path, split, ".parquet", "Parquet", where)
        self._where = where
        self._columns = {"image": wanted.image or "image"}
        if wanted.labels:
            self._columns["label"] = wanted.label or "label"
        if wanted.captions:
            self._columns["caption"] = wanted.caption or "caption"
        self._groups: list[tuple[str, int]] = []
        self._starts: list[int] = []
        self._first_row: dict[str, int] = {}
        rows = 0
        with ThreadPoolExecutor(16) as pool:  # stores answer slowly, and all at once
            headers = list(pool.map(self._header, self._files))
        self._fingerprints = {}
        for file, (_, sizes, fingerprint) in zip(self._files, headers, strict=True):
            self._first_row[file], self._fingerprints[file] = rows, fingerprint
            for group, size in enumerate(sizes):
                self._groups.append((file, group))
                self._starts.append(rows)
                rows += size
        if not rows:
            raise InputError(f"{where}.path: {self._files[0]} holds no rows")
        self._rows = rows
        self._classes = classes.Classes(())
        if wanted.labels:
            self._classes = self._read_classes(headers[0][0], names)
        self.class_names = self._classes.names
        self._start_cache()

    def _header(self, file: str) -> tuple[Any, list[int], str]:
        """Schema, rows of each row group, fingerprint; all columns are there, of usable types."""
        fingerprint = files.fingerprint(file)
        with _refusing(file, self._where), _open(file) as opened:
            schema, metadata = opened.schema_arrow, opened.metadata
        for what, column in self._columns.items():
            key = f"{self._where}.{what}_key"
            columns.require(column, schema.names, key, file)
            kind = schema.field(column).type
            if not _TYPES[what](kind):
                raise InputError(
                    f"{key}: column {column!r} of {file} holds {kind}; {_WANTED[what]}"
                )
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return schema, sizes, fingerprint

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
        row = i - self._starts[group]
        values = {what: column[row].as_py() for what, column in self._group(group).items()}
        if not values["image"]:
            raise BadExample(
                f"{self.name_of(i)}: column {self._columns['image']!r} holds no image bytes"
            )
        example: Example = {"image": values["image"]}
        if "label" in values:
            label = self._classes.number(values["label"])
            if label is None:
                raise BadExample(f"{self.name_of(i)}: {self._classes.wrong(values['label'])}")
            example["label"] = label
        if "caption" in values:
            what = f"column {self._columns['caption']!r}"
            example["captions"] = captions_of(values["caption"], self.name_of(i), what)
        return example

    def labels(self) -> Int[np.ndarray, " n"]:
        if "label" not in self._columns:
            return np.zeros(self._rows, np.int64)
        number = self._classes.number
        return np.array([number(value) or 0 for value in self._label_column()], np.int64)

    def name_of(self, i: int) -> str:
        group = bisect.bisect_right(self._starts, i) - 1
        file, _ = self._groups[group]
        return f"{file}, row {i - self._first_row[file]}"

    def _read_classes(self, schema: Any, names: tuple[str, ...] | None) -> classes.Classes:
        import pyarrow.types as types

        column = self._columns["label"]
        if types.is_integer(schema.field(column).type):
            names = names or _hub_names(schema, column)
            if names is not None:
                return classes.Classes(names)
        return classes.from_counts(Counter(self._label_column()), names)

    def _label_column(self) -> Iterator[int | str | None]:
        column = self._columns["label"]
        for file in self._files:
            with _refusing(file, self._where), _open(file) as opened:
                yield from opened.read([column]).column(column).to_pylist()

    def _group(self, group: int) -> dict[str, Any]:
        """The columns of a row group, from memory where it was used lately."""
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

    def _read(self, group: int) -> tuple[dict[str, Any], int]:
        import pyarrow as pa

        file, number = self._groups[group]
        names = list(dict.fromkeys(self._columns.values()))
        try:
            if files.fingerprint(file) != self._fingerprints[file]:
                raise RunError(f"{file}: has changed since the run began; start again to read it")
            with _open(file) as opened:
                table = opened.read_row_group(number, names)
        except (pa.ArrowException, OSError) as error:
            raise RunError(
                f"{file}: row group {number} cannot be read ({files.why(error)}); "
                "copy the file again"
            ) from error
        table = table.combine_chunks()
        columns = {what: table.column(name).chunk(0) for what, name in self._columns.items()}
        if pa.types.is_struct(columns["image"].type):
            columns["image"] = columns["image"].field("bytes")
        return columns, table.nbytes


@contextmanager
def _open(file: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    if not files.is_url(file):
        with pq.ParquetFile(file, memory_map=True) as opened:
            yield opened
    else:
        with files.open_binary(file) as stored, pq.ParquetFile(stored) as opened:
            yield opened


@contextmanager
def _refusing(file: str, where: str) -> Iterator[None]:
    """Makes an InputError of what pyarrow says about a file that it cannot read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{where}.path: {file} cannot be read as Parquet ({files.why(error)}); "
            "copy the file again"
        ) from error


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_large_string(kind)


def _is_label(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_integer(kind) or _is_text(kind)


def _is_caption(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    return _is_text(kind)


_TYPES = {"image": _is_image, "label": _is_label, "caption": _is_caption}
_WANTED = {
    "image": "images are encoded files: binary, or struct with a field bytes",
    "label": "labels are whole numbers or text",
    "caption": "captions are text or lists of text",
}


def _hub_names(schema: Any, key: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[key]["names"])
    except (KeyError, TypeError, ValueError):
        return None
