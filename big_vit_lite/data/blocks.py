"""Rows of a global batch as numpy arrays: what threads and worker processes compute.

Nothing here knows of devices, so that it travels to other processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data.examples import CAPTIONS, TRIES, Draws, Examples, Skipped
from big_vit_lite.data.order import Order
from big_vit_lite.data.sources.base import BadExample, Source

Arrays = dict[str, np.ndarray]
ALIGNMENT = 64  # bytes; JAX copies host arrays that begin elsewhere, for 85 µs a 224x224 image


class Pool:
    """The examples of several splits side by side; of one, mostly.

    Positions and rows count through the members one after the other.

    Raises:
      InputError: members with other keys, shapes or classes than the first.
    """

    def __init__(self, members: Sequence[Examples], names: Sequence[str] = ("data.train",)):
        self.members = members
        self.class_names = members[0].source.class_names
        self.keys = members[0].keys
        for member, name in zip(members, names, strict=False):
            _require_alike(member, name, members[0], names[0])
        self._starts = np.cumsum([0, *map(len, members)])
        self._wholes: list[Source] = [member.source.whole for member in members]
        self._first_rows = np.cumsum([0, *map(len, self._wholes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def member_of(self, position: int) -> tuple[int, int]:
        """Number of the member and position in it."""
        if len(self.members) == 1:
            return 0, position
        k = int(np.searchsorted(self._starts, position, side="right")) - 1
        return k, position - int(self._starts[k])

    def row_of(self, position: int) -> int:
        """Row in the splits before any `part`, side by side."""
        k, i = self.member_of(position)
        return int(self._first_rows[k]) + self.members[k].source.row_of(i)

    def name_of(self, row: int) -> str:
        """File or row behind what `row_of` gives."""
        k = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._wholes[k].name_of(row - int(self._first_rows[k]))


def _require_alike(member: Examples, name: str, first: Examples, first_name: str) -> None:
    if member.keys != first.keys:
        shown = [", ".join(f"{k} {v[0]}" for k, v in m.keys.items()) for m in (member, first)]
        raise InputError(
            f"{name} makes examples of {shown[0]} and {first_name} of {shown[1]}; give them "
            "transforms that agree"
        )
    if member.source.class_names != first.source.class_names:
        counts = [len(m.source.class_names) for m in (member, first)]
        strange = set(member.source.class_names) ^ set(first.source.class_names)
        example = f", for example {min(strange)!r} in one of them only" if strange else ""
        raise InputError(
            f"{name} has {counts[0]} classes and {first_name} {counts[1]}{example}; a mixture "
            "wants the same classes in the same order"
        )


class Captions(NamedTuple):
    """All captions of one image."""

    index: int  # row of the image in the split, as in a batch's "index"
    tokens: Int32[np.ndarray, "captions length"]


class Block(NamedTuple):
    """Some rows of a batch, the examples that could not be used for them, and all captions of the
    others where they are asked for."""

    arrays: Arrays
    skipped: tuple[Skipped, ...]
    captions: tuple[Captions, ...] = ()


class Blocks:
    """Rows of batches: a pure function of the batch's number and the rows.

    Args:
      evaluating: whether a bad example is masked instead of replaced, and batches hold "mask"
        (False there and on the filling) and "index" (row in the split, -1 on the filling).

    Attributes:
      keys: shape of one example and dtype, by key.
    """

    def __init__(self, pool: Pool, order: Order, batch_size: int, evaluating: bool):
        self.pool, self.order, self.batch_size = pool, order, batch_size
        self.evaluating = evaluating
        self.every_caption = pool.members[0].every_caption
        self.keys: dict[str, tuple[tuple[int, ...], Any]] = dict(pool.keys)
        if evaluating:
            self.keys |= {"mask": ((), np.dtype(bool)), "index": ((), np.dtype(np.int32))}

    def make(self, i: int, rows: Int[np.ndarray, " r"]) -> Block:
        """These rows of batch `i`.

        Raises:
          RunError: TRIES replacements of a bad example are bad as well.
          InputError: as Examples.
        """
        positions, visits = self.order(i * self.batch_size + rows)
        arrays: Arrays = {
            key: _aligned((len(rows), *shape), dtype)
            for key, (shape, dtype) in self.pool.keys.items()
        }
        good = np.zeros(len(rows), bool)
        skipped: list[Skipped] = []
        captions: list[Captions] = []
        draws: dict[int, Draws] = {}
        for row, (position, visit) in enumerate(
            zip(positions.tolist(), visits.tolist(), strict=True)
        ):
            example = None
            if position >= 0:
                k, place = self.pool.member_of(position)
                member = self.pool.members[k]
                draw = draws.get(k) or draws.setdefault(k, Draws(member.seed))
                example = self._usable(member, place, visit, draw, skipped)
            good[row] = example is not None
            if example is not None and self.every_caption:
                captions.append(Captions(self.pool.row_of(position), example[CAPTIONS]))
            for key, values in arrays.items():
                values[row] = 0 if example is None else example[key]
        if self.evaluating:
            arrays["mask"] = good
            arrays["index"] = self.split_rows(positions).astype(np.int32)
        return Block(arrays, tuple(skipped), tuple(captions))

    def _usable(
        self, member: Examples, i: int, visit: int, draws: Draws, skipped: list[Skipped]
    ) -> dict[str, Any] | None:
        """Example `i`, or what stands in for it; None where it is to be masked."""
        for attempt in range(TRIES + 1):
            place = i if attempt == 0 else member.replacement(i, attempt)
            try:
                return member.example(place, visit, draws)
            except BadExample as error:
                skipped.append(Skipped(member.source.name_of(place), str(error)))
            if self.evaluating:
                return None
        raise RunError(
            f"{TRIES} examples drawn to replace {skipped[-TRIES - 1].name} cannot be used either; "
            f"the last: {skipped[-1].fault}"
        )

    def split_rows(self, positions: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """Rows before any `part`; -1 stays."""
        row_of = self.pool.row_of
        return np.array([row_of(p) if p >= 0 else -1 for p in positions.tolist()], np.int64)


def joined(blocks: Sequence[Block]) -> Block:
    """The blocks of one batch, one after the other."""
    if len(blocks) == 1:
        return blocks[0]
    arrays = {}
    for key, first in blocks[0].arrays.items():
        parts = [b.arrays[key] for b in blocks]
        whole = _aligned((sum(map(len, parts)), *first.shape[1:]), first.dtype)
        arrays[key] = np.concatenate(parts, out=whole)
    skipped = tuple(s for b in blocks for s in b.skipped)
    return Block(arrays, skipped, tuple(c for b in blocks for c in b.captions))


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that JAX takes over without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
