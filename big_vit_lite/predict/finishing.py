"""From finished rows to the file that was asked for, so that a kill in between only delays it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from big_vit_lite import storage
from big_vit_lite.data import prepared
from big_vit_lite.predict.rows import Rows, beside, npy_header, remove

METADATA = b"big_vit_lite"
"""Key of a Parquet file's metadata that says what made its embeddings."""
GROUP = 8192
"""Rows of a Parquet row group, which is what a reader holds at once."""


def finish(rows: Rows, about: dict[str, Any]) -> None:
    """Puts the file in its place, last of all, and removes the folder of work.

    Every step is done only where it lacks, so that it can be done again after a kill.

    Raises:
        OSError: the disk does not take it.
    """
    rows.close()
    about = about | {"rows": rows.rows, "left_out": rows.skipped}
    _place_skipped(rows)
    if rows.out.suffix == ".parquet":
        _write_parquet(rows, about)
    else:
        _write_npy(rows, about)
    storage.sync_folder(rows.out.parent)
    remove(rows.work)


def _write_npy(rows: Rows, about: dict[str, Any]) -> None:
    with open(rows.work / "vectors", "r+b") as file:
        file.write(npy_header(rows.rows, rows.dimension, rows.dtype.name))
    prepared.sync(rows.work / "vectors")
    if (rows.work / "paths").exists():
        os.replace(rows.work / "paths", beside(rows.out, "paths.txt"))
    storage.replace(beside(rows.out, "json"), f"{json.dumps(about, indent=1)}\n".encode())
    os.replace(rows.work / "vectors", rows.out)


def _write_parquet(rows: Rows, about: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = rows.work / "parquet"
    kind = pa.from_numpy_dtype(rows.dtype)
    schema = pa.schema(
        {"path": pa.string(), "embedding": pa.list_(kind, rows.dimension)},
        {METADATA: json.dumps(about).encode()},
    )
    with pq.ParquetWriter(part, schema, use_dictionary=False) as writer:
        for paths, vectors in _groups(rows):
            flat = pa.array(vectors.reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, rows.dimension)
            writer.write_table(pa.Table.from_arrays([pa.array(paths), column], schema=schema))
    prepared.sync(part)
    os.replace(part, rows.out)


def _groups(rows: Rows) -> Iterator[tuple[list[str], np.ndarray]]:
    start, width = len(npy_header(0, rows.dimension, rows.dtype.name)), rows.dimension
    with (
        open(rows.work / "vectors", "rb") as vectors,
        open(rows.work / "paths", encoding="utf-8", newline="\n") as paths,
    ):
        vectors.seek(start)
        for at in range(0, rows.rows, GROUP):
            count = min(GROUP, rows.rows - at)
            read = np.frombuffer(vectors.read(count * width * rows.dtype.itemsize), rows.dtype)
            yield [next(paths)[:-1] for _ in range(count)], read.reshape(count, width)


def _place_skipped(rows: Rows) -> None:
    """OUT.skipped.txt where images were left out, and none that is older where none were."""
    place, written = beside(rows.out, "skipped.txt"), rows.work / "skipped"
    if rows.skipped and written.exists():
        os.replace(written, place)
    elif not rows.skipped:
        place.unlink(missing_ok=True)
