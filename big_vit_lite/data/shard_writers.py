"""Shards of prepared examples: ArrayRecord with msgpack records, Parquet as hubs ship it, or tar.

Beside images they hold features in place of them: .npy files, which `features(n)` reads.
"""

from __future__ import annotations

import errno
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Literal, Protocol

from big_vit_lite.data import records
from big_vit_lite.data.sources.base import Example

Format = Literal["arrayrecord", "parquet", "tar"]
Holds = Literal["image", "features"]
ROWS = 100  # of a Parquet row group, which is read whole for one image: what hubs use


class ShardWriter(Protocol):
    """Writes examples into one file.

    Both methods raise OSError or RuntimeError where the disk does not take them.
    """

    def write(self, example: Example, name: str) -> None:
        """`image` is bytes, of an image or a .npy file; `name` says where it came from."""

    def close(self) -> None: ...


def open_writer(
    format: Format,
    path: Path,
    keys: set[str],
    class_names: tuple[str, ...],
    holds: Holds = "image",
) -> ShardWriter:
    """A writer of the shard `path` for examples with `keys` ("label", "captions") and an image.

    Args:
      holds: what `image` is: of "features", the field, column or member gets that name.
    """
    if format == "arrayrecord":
        return ArrayRecordShard(path, holds)
    if format == "parquet":
        return ParquetShard(path, keys, class_names, holds)
    return TarShard(path, holds)


def is_full(error: BaseException) -> bool:
    """Whether the disk (or one's share of it) is full; ArrayRecord says so in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(error) for text in ("No space left on device", "Disk quota exceeded"))


class ArrayRecordShard:
    """Records of encoding "msgpack" (see `records`), each alone in its chunk for random access.

    Not compressed: images are already, and captions are small beside them.
    """

    def __init__(self, path: Path, holds: Holds = "image"):
        from array_record.python.array_record_module import ArrayRecordWriter

        self._holds = holds

        with open(path, "wb"):  # ArrayRecord would say nothing about a file that it cannot open
            pass
        self._writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    def write(self, example: Example, name: str) -> None:
        fields: dict[str, Any] = {self._holds: example["image"]}
        if self._holds == "features":
            fields["key"] = name
        if "label" in example:
            fields["label"] = example["label"]
        if "captions" in example:
            fields["caption"] = list(example["captions"])
        self._writer.write(records.encode(fields))

    def close(self) -> None:
        self._writer.close()


class ParquetShard:
    """Columns image = struct(bytes, path), or features = binary and key = text; label = int64,
    caption = list of text."""

    def __init__(
        self, path: Path, keys: set[str], class_names: tuple[str, ...], holds: Holds = "image"
    ):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._holds = holds
        columns: dict[str, Any] = {"features": pa.binary(), "key": pa.string()}
        features: dict[str, Any] = {
            "features": {"dtype": "binary", "_type": "Value"},
            "key": {"dtype": "string", "_type": "Value"},
        }
        if holds == "image":
            columns = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
            features = {"image": {"_type": "Image"}}
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
        row: dict[str, Any] = {"features": example["image"], "key": name}
        if self._holds == "image":
            row = {"image": {"bytes": example["image"], "path": name}}
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


class TarShard:
    """WebDataset's layout: NUMBER.npy (or .jpg, .png, .webp), NUMBER.cls with the label's number,
    and NUMBER.json = {"key": name, "captions": [text, ...]}."""

    def __init__(self, path: Path, holds: Holds = "image"):
        self._holds, self._count = holds, 0
        self._archive = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)

    def write(self, example: Example, name: str) -> None:
        about: dict[str, Any] = {"key": name}
        if "captions" in example:
            about["captions"] = list(example["captions"])
        ending = "npy" if self._holds == "features" else _ending(example["image"])
        members = {ending: example["image"], "json": json.dumps(about).encode()}
        if "label" in example:
            members["cls"] = str(example["label"]).encode()
        for field, content in members.items():
            member = tarfile.TarInfo(f"{self._count:09d}.{field}")  # of no time and no owner
            member.size = len(content)
            self._archive.addfile(member, io.BytesIO(content))
        self._count += 1

    def close(self) -> None:
        self._archive.close()


def _ending(image: bytes) -> str:
    if image.startswith(b"\xff\xd8"):
        return "jpg"
    return "webp" if image[8:12] == b"WEBP" else "png"
