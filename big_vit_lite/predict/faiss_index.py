"""The nearest vectors by FAISS (Douze 2024): for indexes that answer without looking at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data import files
from big_vit_lite.evals.ranking import ITEMS
from big_vit_lite.predict.rows import beside
from big_vit_lite.predict.search import products

TRAINING = 100_000
"""Vectors, spread over all, from which an index that wants training learns its cells."""


def library() -> Any:
    """The faiss module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(
            '--index faiss takes faiss-cpu: pip install "big_vit_lite[faiss]"; the exact search, '
            "without --index, takes nothing"
        ) from None
    return faiss


def factory_of(index: str) -> str | None:
    """What is behind "faiss:", "Flat" for faiss alone, None for exact.

    Raises:
        InputError: neither exact nor faiss.
    """
    name, _, factory = index.partition(":")
    if index == "exact":
        return None
    if name != "faiss":
        raise InputError(
            f"--index = {index}: wants exact, faiss, or faiss:FACTORY, such as faiss:HNSW32"
        )
    return factory or "Flat"


def nearest(
    queries: Float32[np.ndarray, "q e"], path: Path, vectors: Any, k: int, factory: str
) -> tuple[Int[np.ndarray, "q k"], Float64[np.ndarray, "q k"]]:
    """As search.nearest, of the vectors that the index finds, -1 where it finds fewer than k; their
    cosines are computed again in float64, and equal ones are in the order of their numbers.

    Raises:
        InputError: faiss is not there, or does not know the factory.
    """
    faiss = library()
    k = min(k, vectors.rows)
    index = _index(faiss, path, vectors, factory)
    _, rows = index.search(np.ascontiguousarray(queries, np.float32), k)
    known = np.unique(rows[rows >= 0])
    place = np.searchsorted(known, np.maximum(rows, 0)).clip(0, max(len(known) - 1, 0))
    exact = products(queries.astype(np.float64), vectors.take(known), place)
    exact = np.where(rows >= 0, exact, -np.inf)
    order = np.lexsort((rows, -exact), axis=-1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(exact, order, axis=1)


def _index(faiss: Any, path: Path, vectors: Any, factory: str) -> Any:
    """The index of these very vectors, from its file beside them or built now. A flat one is the
    vectors themselves, and is not kept."""
    try:
        index = faiss.index_factory(vectors.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        raise InputError(
            f"--index: faiss makes no index of {factory!r} for {vectors.dimension} numbers: give "
            "one such as Flat, HNSW32 or IVF1024,Flat"
        ) from None
    kept = _file(path, factory)
    if kept.exists():
        with contextlib.suppress(RuntimeError):  # a damaged one is built again
            return faiss.read_index(str(kept))
    if not index.is_trained:
        step = max(1, vectors.rows // TRAINING)
        index.train(vectors.take(np.arange(0, vectors.rows, step)).astype(np.float32))
    for _, block in vectors.blocks(ITEMS):
        index.add(np.ascontiguousarray(block))
    if factory != "Flat":
        part = kept.with_name(f"{kept.name}.part")
        try:
            faiss.write_index(index, str(part))
            os.replace(part, kept)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise RunError(f"{kept} cannot be written ({files.why(error)})") from error
    return index


def _file(path: Path, factory: str) -> Path:
    """Its name holds what changes when the vectors do."""
    of = f"{factory} {files.fingerprint(str(path))}"
    return beside(path, f"{hashlib.sha256(of.encode()).hexdigest()[:12]}.faiss")
