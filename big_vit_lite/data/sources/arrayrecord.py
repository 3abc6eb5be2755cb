"""ArrayRecord shards with a schema.json beside them: any record is read alone, in any order.

The format for data beyond memory: a shuffled pass costs what a sequential one does. What a record
is stands in `data/records.py`; `tools/prepare.py` writes such shards from any other source.

Label numbers for samplers and parts come from labels.npz where it is there; otherwise all records
are read once and their labels kept in the cache.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError
from big_vit_lite.data import files, records
from big_vit_lite.data.sources import classes, label_cache, shards
from big_vit_lite.data.sources.base import BadExample, Columns, Example, Source, captions_of
from big_vit_lite.data.sources.record_shards import RecordShards

ENDINGS = (".arrayrecord", ".array_record")
_PEEKED = 16  # records in which a field must be found once
_OF = re.compile(r"(?P<split>.+)-\d+-of-(?P<total>\d+)")


class ArrayRecord(Source):
    """Records of `SPLIT-00000-of-00010.arrayrecord` (or .array_record) in the order of the shards.

    Args:
      path: the folder that holds shards and schema.json, one shard, or a pattern; local.
      split: "train", "test", ...; None where the folder holds only one.
      names: class names that replace those of the schema.

    Raises:
      InputError: a URL, nothing at the path, no schema, a missing, truncated or changed shard, an
        unknown field.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        columns: Columns,
        names: tuple[str, ...] | None = None,
        where: str = "data.train",
    ):
        path = files.normal(path)
        _require_readable(path, where)
        found = shards.find(path, split, _ending(path), "ArrayRecord", where)
        self._shards = RecordShards(found, where)
        folder = files.parent(found[0]) or "."
        schema = records.read_schema(folder, where)
        self._encoding = schema.encoding
        self._columns = {"image": columns.image or schema.image}
        if columns.labels:
            self._columns["label"] = columns.label or schema.label
        if columns.captions:
            self._columns["caption"] = columns.caption or schema.caption
        self._require_all(folder, schema, where)
        if not len(self):
            raise InputError(f"{where}.path: {self._shards.paths[0]} holds no records")
        self._table = None
        bare = schema.encoding == "image"
        if columns.labels and (bare or columns.label in (None, schema.label)):
            self._table = self._read_table(folder, where)
        first = self._peek(where)
        self._classes = classes.Classes(())
        if columns.labels:
            self._classes = self._read_classes(names or schema.class_names, first, where)
        self.class_names = self._classes.names

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, i: int) -> Example:
        fields = self._fields(i)
        image = fields.get(self._columns["image"])
        if not isinstance(image, bytes) or not image:
            raise BadExample(
                f"{self.name_of(i)}: field {self._columns['image']!r} holds no image bytes"
            )
        example: Example = {"image": image}
        if "label" in self._columns:
            value = self._label(i, fields)
            label = self._classes.number(value)
            if label is None:
                raise BadExample(f"{self.name_of(i)}: {self._classes.wrong(value)}")
            example["label"] = label
        if "caption" in self._columns:
            key = self._columns["caption"]
            captions = _texts(fields.get(key))
            example["captions"] = captions_of(captions, self.name_of(i), f"field {key!r}")
        return example

    def labels(self) -> Int[np.ndarray, " n"]:
        if "label" not in self._columns:
            return np.zeros(len(self), np.int64)
        values = self._all_labels() if self._table is None else self._table.tolist()
        number = self._classes.number
        return np.array([number(value) or 0 for value in values], np.int64)

    def name_of(self, i: int) -> str:
        return self._shards.name_of(i)

    def _fields(self, i: int) -> dict[str, Any]:
        try:
            return records.decode(self._shards[i], self._encoding)
        except (RuntimeError, ValueError, OSError) as error:
            raise BadExample(
                f"{self.name_of(i)}: cannot be read ({files.why(error)}); copy the shard again"
            ) from error

    def _label(self, i: int, fields: dict[str, Any]) -> int | str | None:
        if self._encoding == "image":
            return int(self._table[i])
        value = fields.get(self._columns["label"])
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, int | str) else None

    def _all_labels(self) -> list[int | str | None]:
        column = f"{self._encoding} {self._columns['label']}"
        return label_cache.cached(self._shards.paths, column, self._read_labels)

    def _read_labels(self) -> Iterator[int | str | None]:
        for i in range(len(self)):
            try:
                yield self._label(i, self._fields(i))
            except BadExample:  # which whoever asks for the example will be told
                yield None

    def _require_all(self, folder: str, schema: records.Schema, where: str) -> None:
        """A whole split has as many records as the schema says."""
        match = _OF.match(files.name_of(self._shards.paths[0]))
        if not match or int(match["total"]) != len(self._shards.paths):
            return
        stated = schema.records.get(match["split"], len(self))
        if stated != len(self):
            raise InputError(
                f"{where}.path: the shards of {match['split']!r} in {folder} hold {len(self):,} "
                f"records and {records.SCHEMA} says {stated:,}; copy the data set again"
            )

    def _read_table(self, folder: str, where: str) -> Int[np.ndarray, " n"] | None:
        """labels.npz for these shards, if it is there."""
        file = files.join(folder, records.LABELS)
        names = [files.name_of(shard) for shard in self._shards.paths]
        if not files.exists(file):
            if self._encoding == "image":
                raise InputError(
                    f"{where}.path: bare images hold no labels, and {file} is not there; write it "
                    "with numpy.savez, the label numbers of each shard under its file name"
                )
            return None
        try:
            with np.load(file) as stored:
                labels = [stored[name] for name in names]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{where}.path: {file} cannot be read ({files.why(error)}); copy it again"
            ) from error
        for name, size, found in zip(names, self._shards.sizes, labels, strict=True):
            if found.shape != (size,):
                raise InputError(
                    f"{where}.path: {file} has {len(found):,} labels for the {size:,} records of "
                    f"{name}; copy both again"
                )
        return np.concatenate(labels).astype(np.int64)

    def _peek(self, where: str) -> list[dict[str, Any]]:
        """The first records, whose fields are to be those that were asked for."""
        found = []
        for i in range(min(_PEEKED, len(self))):
            try:
                found.append(self._fields(i))
            except BadExample as error:
                if not found and i + 1 == min(_PEEKED, len(self)):
                    raise InputError(
                        f"{where}.path: none of the first records can be read: {error}. "
                        f"{records.SCHEMA} says that they are {self._encoding!r}"
                    ) from None
        there = sorted({name for fields in found for name in fields})
        for what, field in self._columns.items():
            if field in there or (what == "label" and self._encoding == "image"):
                continue
            near = difflib.get_close_matches(field, there, n=1, cutoff=0.4)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(
                f"{where}.{what}_key: {self._shards.paths[0]} has no field {field!r}{hint}; "
                f"the fields of its records are: {', '.join(there)}"
            )
        return found

    def _read_classes(
        self, names: tuple[str, ...] | None, first: list[dict[str, Any]], where: str
    ) -> classes.Classes:
        if self._table is not None:
            return classes.from_counts(Counter(self._table.tolist()), names)
        if names is None:
            return classes.from_counts(Counter(self._all_labels()), None)
        return classes.from_counts(Counter(self._label(0, fields) for fields in first), names)


def _ending(path: str) -> str:
    if files.is_dir(path):
        folders, names = files.children(path)
        for folder in folders:
            names += files.children(files.join(path, folder))[1]
    else:
        names = [path]
    return next((e for e in ENDINGS for name in names if name.endswith(e)), ENDINGS[0])


def _require_readable(path: str, where: str) -> None:
    if files.is_url(path):
        raise InputError(
            f"{where}.path: ArrayRecord shards are read from disks only; copy {path} to one, or "
            "mount it (gcsfuse, mount-s3) and give the folder"
        )
    if files.exists(files.join(path, "dataset_info.json")):
        raise InputError(
            f"{where}.source: {path} was prepared by TensorFlow Datasets; set source to tfds"
        )


def _texts(value: Any) -> Any:
    """Captions of a tf.train.Example are bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_texts(text) for text in value]
    return value
