"""The nearest of many vectors, exactly, a block at a time: never all scores at once.

A device ranks each block by float32 products. Those have an error, which is bounded, so that only
vectors near the best can be among the best; their products are computed again in float64, each by
the same sum wherever it stands. The order is that of the whole matrix of float64 products, equal
ones by their number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from big_vit_lite.evals.ranking import ITEMS, QUERIES, similarities
from big_vit_lite.predict.stored import Blocks

SPARE = 16
"""Vectors of a block beyond the best k that are looked at again."""
AT_ONCE = 1 << 22
"""Numbers in float64 that exist at once while products are computed again: 32 MiB, twice."""


class Vectors(Protocol):
    """Rows of length 1."""

    rows: int
    dimension: int

    def blocks(self, size: int) -> Blocks: ...


def nearest(
    queries: Float32[np.ndarray, "q e"],
    vectors: Vectors,
    k: int,
    items_at_once: int = ITEMS,
    queries_at_once: int = QUERIES,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[Int[np.ndarray, "q k"], Float64[np.ndarray, "q k"]]:
    """Numbers and cosines of the k nearest vectors of each query, the best first.

    Args:
        queries: rows of length 1.
        k: cut to the number of vectors.
        progress: is told how many vectors have been compared.
    """
    k = min(k, vectors.rows)
    # Any order of summation in float32 is within e * 2**-24 of rows of length 1 (Higham 2002,
    # section 3.1); fourfold for lengths in float16 and for TPUs, which sum several bfloat16 parts.
    error = 4 * vectors.dimension * 2.0**-24
    best = _Best(queries.astype(np.float64), k, error)
    size = min(items_at_once, vectors.rows)
    asked = [slice(at, at + queries_at_once) for at in range(0, len(queries), queries_at_once)]
    ranked = _ranked(min(k + SPARE, size))
    for start, items in vectors.blocks(size):
        filled = np.zeros((size, vectors.dimension), np.float32)
        filled[: len(items)] = items
        for part in asked:
            scores, rows = jax.device_get(ranked(queries[part], filled, len(items)))
            best.add(part, start, items, scores, rows)
        progress(start + len(items))
    return best.rows, best.scores


@functools.cache
def _ranked(count: int):
    """The best of a block by float32 products; `there` rows of it are no filling."""

    def rank(queries, items, there):
        scores = similarities(queries, items)
        scores = jnp.where(jnp.arange(len(items)) < there, scores, -jnp.inf)
        return jax.lax.top_k(scores, count)

    return jax.jit(rank)


class _Best:
    """The best so far of every query, by float64 products."""

    def __init__(self, queries: Float64[np.ndarray, "q e"], k: int, error: float):
        self._queries, self._error = queries, error
        self.rows = np.full((len(queries), k), np.iinfo(np.int64).max)
        self.scores = np.full((len(queries), k), -np.inf)

    def add(
        self,
        part: slice,
        start: int,
        items: Float32[np.ndarray, "n e"],
        scores: Float32[np.ndarray, "p m"],
        rows: Int[np.ndarray, "p m"],
    ) -> None:
        """A block's vectors for the queries `part`.

        Args:
            start: number of the block's first vector.
            scores, rows: its best by float32, the best first; -inf for filling.
        """
        least = self.scores[part, -1]
        number = np.arange(len(self._queries))[part]
        hopeful = scores[:, 0] + self._error >= least
        there = np.isfinite(scores)
        rows = np.where(there, rows, 0)
        self._merge(number[hopeful], start, items, rows[hopeful], there[hopeful])
        # A vector that was not among them may still be as near as the last of the best.
        whole = len(items) <= scores.shape[1]
        open_ = hopeful & (scores[:, -1] + self._error >= self.scores[part, -1])
        for query in [] if whole else number[open_].tolist():
            every = np.arange(len(items))[None]
            self._merge(np.array([query]), start, items, every, np.ones(every.shape, bool))

    def _merge(
        self,
        number: Int[np.ndarray, " p"],
        start: int,
        items: Float32[np.ndarray, "n e"],
        rows: Int[np.ndarray, "p m"],
        there: np.ndarray,
    ) -> None:
        at_once = max(1, AT_ONCE // (max(rows.shape[1], 1) * items.shape[1]))
        for at in range(0, len(number), at_once):
            few = slice(at, at + at_once)
            exact = products(self._queries[number[few]], items, rows[few])
            exact = np.where(there[few], exact, -np.inf)
            found = np.where(there[few], start + rows[few].astype(np.int64), np.iinfo(np.int64).max)
            self._keep(number[few], found, exact)

    def _keep(self, number, found, exact) -> None:
        k = self.rows.shape[1]
        held = self.rows[number]
        # A block may come again whole: what is held of it already is no second time there.
        again = (found[:, :, None] == held[:, None, :]).any(axis=2)
        exact = np.where(again, -np.inf, exact)
        found = np.where(again, np.iinfo(np.int64).max, found)
        rows = np.concatenate([held, found], axis=1)
        scores = np.concatenate([self.scores[number], exact], axis=1)
        order = np.lexsort((rows, -scores), axis=-1)[:, :k]
        self.rows[number] = np.take_along_axis(rows, order, axis=1)
        self.scores[number] = np.take_along_axis(scores, order, axis=1)


def products(
    queries: Float64[np.ndarray, "p e"],
    items: Float[np.ndarray, "n e"],
    rows: Int[np.ndarray, "p m"],
) -> Float64[np.ndarray, "p m"]:
    """Scalar products in float64 of each query with some rows. A matrix product may sum equal rows
    in different orders; this does not, so that equal rows tie."""
    return (items[rows].astype(np.float64) * queries[:, None, :]).sum(axis=-1)
