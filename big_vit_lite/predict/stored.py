"""Embeddings as `embed` wrote them, read in blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.predict import identity
from big_vit_lite.predict.finishing import METADATA
from big_vit_lite.predict.rows import beside

Blocks = Iterator[tuple[int, Float32[np.ndarray, "n e"]]]


class Npy:
    """A .npy with its paths and what made it beside it.

    Attributes:
        about: what made it.
        rows, dimension: of the vectors.
    """

    def __init__(self, path: Path):
        self._path, self._paths = path, beside(path, "paths.txt")
        self.about = json.loads(beside(path, "json").read_bytes())
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it has another header than this command writes")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        if len(shape) != 2 or fortran or dtype.kind != "f":
            raise ValueError(f"it is {dtype} {shape}, and vectors are floats (n, e)")
        wanted, there = start + int(np.prod(shape)) * dtype.itemsize, path.stat().st_size
        if there < wanted:
            raise ValueError(
                f"it is cut off: {shape[0]:,} x {shape[1]:,} {dtype} are {wanted:,} bytes, and it "
                f"has {there:,}"
            )
        self.rows, self.dimension = shape
        self._vectors = np.memmap(path, dtype, "r", start, shape) if self.rows else None
        if (lines := self._count()) != self.rows:
            raise ValueError(f"{self._paths} has {lines:,} lines, and it {self.rows:,} rows")

    def blocks(self, size: int) -> Blocks:
        """(number of the first row, some rows), one after the other."""
        for start in range(0, self.rows, size):
            yield start, np.asarray(self._vectors[start : start + size], np.float32)

    def take(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n e"]:
        """Some rows, as they are stored."""
        return np.asarray(self._vectors[rows])

    def paths(self, rows: Sequence[int]) -> dict[int, str]:
        """The paths of some rows, of which there may be many more."""
        wanted = set(rows)
        with open(self._paths, encoding="utf-8", newline="\n") as file:
            return {i: line[:-1] for i, line in enumerate(file) if i in wanted}

    def _count(self) -> int:
        with open(self._paths, "rb") as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))


class Parquet:
    """A .parquet with columns path and embedding; see Npy."""

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        self.about = json.loads(self._file.schema_arrow.metadata[METADATA])
        self.rows = self._file.metadata.num_rows
        self.dimension = self._file.schema_arrow.field("embedding").type.list_size
        groups = range(self._file.metadata.num_row_groups)
        sizes = [self._file.metadata.row_group(i).num_rows for i in groups]
        self._starts = np.cumsum([0, *sizes])

    def blocks(self, size: int) -> Blocks:
        for start, vectors in self._groups():
            for at in range(0, len(vectors), size):
                yield start + at, np.asarray(vectors[at : at + size], np.float32)

    def take(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n e"]:
        made = np.zeros((len(rows), self.dimension), np.float32)
        group = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(group):
            here = group == number
            made[here] = self._group(number)[rows[here] - self._starts[number]]
        return made

    def paths(self, rows: Sequence[int]) -> dict[int, str]:
        found, wanted = {}, np.unique(np.asarray(rows, np.int64))
        group = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(group):
            column = self._file.read_row_group(number, columns=["path"]).column("path")
            for row in wanted[group == number].tolist():
                found[row] = column[row - int(self._starts[number])].as_py()
        return found

    def _groups(self) -> Blocks:
        for number, start in enumerate(self._starts[:-1].tolist()):
            yield start, self._group(number)

    def _group(self, number: int) -> np.ndarray:
        column = self._file.read_row_group(int(number), columns=["embedding"]).column("embedding")
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, self.dimension)


def opened(path: Path) -> Npy | Parquet:
    """Finished embeddings.

    Raises:
        InputError: there are none, they are unfinished, damaged, or nothing says what made them.
    """
    if not path.exists():
        if beside(path, "partial").exists():
            raise InputError(f"--embeddings: {path} is not finished: run its embed command again")
        raise InputError(f"--embeddings: {path} is not there: embed makes it")
    try:
        made = Npy(path) if path.suffix == ".npy" else Parquet(path)
        missing = {"dimension", "rows", *identity.SPACE} - made.about.keys()
    except FileNotFoundError as error:
        raise InputError(
            f"--embeddings: {error.filename} is not there, without which {path} says nothing of its"
            " images: put it back, or embed them again"
        ) from None
    except (KeyError, TypeError):
        missing = {"big_vit_lite"}
    except (OSError, ValueError) as error:
        raise InputError(
            f"--embeddings: {path} cannot be read ({files.why(error)}): embed its images again"
        ) from None
    if missing:
        raise InputError(
            f"--embeddings: {path} does not say which model made it: embed its images again"
        )
    about = made.about
    if (about["rows"], about["dimension"]) != (made.rows, made.dimension):
        raise InputError(
            f"--embeddings: {path} holds {made.rows:,} x {made.dimension:,} numbers, and what lies "
            f"beside it is of {about['rows']:,} x {about['dimension']:,}: embed its images again"
        )
    return made


def require_same_space(about: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raises InputError where embeddings are of another model or of images seen otherwise."""
    told = identity.differences(about, now, identity.SPACE)
    if told:
        raise InputError(
            f"--embeddings: {path} cannot be compared with what this MODEL makes: {told}; give the "
            "model and the options that made it"
        )
