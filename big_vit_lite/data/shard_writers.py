"""Shards of prepared examples: ArrayRecord with msgpack records, or Parquet as hubs ship it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, Literal, Protocol

from big_vit_lite.data import records
from big_vit_lite.data.sources.base import Example

Format = Literal["arrayrecord", "parquet"]
ROWS = 100  # of a Parquet row group, which is read whole for one image: what hubs use


class ShardWriter(Protocol):
    """Writes examples into one file.

    Both methods raise OSError or RuntimeError where the disk does not take them.
    """

    def write(self, example: Example, name: str) -> None:
        """`image` is bytes; `name` says where it came from."""

    def close(self) -> None: ...


def open_writer(format: Format, path: Path, keys: set[str], class_names: tuple[str, ...]) -> Any:
    """A writer of the shard `path` for examples with `keys` ("label", "captions") and an image."""
    if format == "arrayrecord":
        return ArrayRecordShard(path)
    return ParquetShard(path, keys, class_names)


def is_full(error: BaseException) -> bool:
    """Whether the disk (or one's share of it) is full; ArrayRecord says so in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(error) for text in ("No space left on device", "Disk quota exceeded"))


class ArrayRecordShard:
    """Records of encoding "msgpack" (see `records`), each alone in its chunk for random access.

    Not compressed: images are already, and captions are small beside them.
    """

    def __init__(self, path: Path):
        from array_record.python.array_record_module import ArrayRecordWriter

        with open(path, "wb"):  # ArrayRecord would say nothing about a file that it cannot open
            pass
        self._writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    def write(self, example: Example, name: str) -> None:
        fields: dict[str, Any] = {"image": example["image"]}
        if "label" in example:
            fields["label"] = example["label"]
        if "captions" in example:
            fields["caption"] = list(example["captions"])
        self._writer.write(records.encode(fields))

    def close(self) -> None:
        self._writer.close()


class ParquetShard:
    """Columns image = struct(bytes, path), label = int64, caption = list of text."""

    def __init__(self, path: Path, keys: set[str], class_names: tuple[str, ...]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns: dict[str, Any] = {"image": image}
        features: dict[str, Any] = {"image": {"_type": "Image"}}
        if "label" in keys:
            columns["label"] = pa.int64()
            features["label"] = {"names": list(class_names), "_type": "ClassLabel"}
        if "captions" in keys:
            columns["caption"] = pa.list_(pa.string())
            features["caption"] = {"feature": {"dtype": "string", "_type": "Value"}}
            features["caption"]["_type"] = "Sequence"
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = pa.schema(columns, metadata)
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="none", use_dictionary=False, write_statistics=False
        )
        self._rows: list[dict[str, Any]] = []

    def write(self, example: Example, name: str) -> None:
        row: dict[str, Any] = {"image": {"bytes": example["image"], "path": name}}
        if "label" in example:
            row["label"] = example["label"]
        if "captions" in example:
            row["caption"] = list(example["captions"])
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema))

    def close(self) -> None:
        if self._rows:
            self._write_group()
        self._writer.close()
