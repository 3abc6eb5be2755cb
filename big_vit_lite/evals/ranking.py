"""Ranks among many scores, with ties against us, exact, and never with all scores at once."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int

from big_vit_lite.parallel import replicated

TIE = 1e-6
"""Cosine similarities nearer than this are equal: features of equal images or texts may differ in
the last bits by where in a batch they stood, and products of f32 by where in a block."""
QUERIES, ITEMS = 2048, 8192
"""Scores that exist at once on a device: a block of 64 MiB."""


def similarities(queries: Float[Array, "q e"], items: Float[Array, "n e"]) -> Float32[Array, "q n"]:
    """Scalar products, in f32 on TPUs and GPUs, too, whose default rounds the factors."""
    return jnp.dot(
        queries, items.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def count_ahead(
    mesh: Mesh,
    queries: Float32[np.ndarray, "q e"],
    query_groups: Int[np.ndarray, " q"],
    own: Float32[np.ndarray, " q"],
    items: Float32[np.ndarray, "n e"],
    item_groups: Int[np.ndarray, " n"],
    queries_at_once: int = QUERIES,
    items_at_once: int = ITEMS,
) -> Int[np.ndarray, " q"]:
    """How many items of other groups than the query's score at least `own` with it, up to TIE.

    What is NaN does not lose: a query or an own score of NaN has all items ahead, and an item of
    NaN is ahead of everybody. Items are split over all devices of the mesh, queries pass in blocks:
    memory grows with q + n, and the result depends neither on devices nor on blocks.

    Args:
        queries, items: the same in every process; rows of length 1.
        query_groups, item_groups: 0 or more; an item is not counted for a query of its group.
        own: score of the item that each query should find.
    """
    whole, split = replicated(mesh), NamedSharding(mesh, P(mesh.axis_names))
    per_device = -(-len(items) // mesh.size)
    block = max(1, min(items_at_once, per_device))
    rows = -(-per_device // block) * block * mesh.size
    gallery = _put(items, rows, 0, split), _put(item_groups.astype(np.int32), rows, -1, split)
    counted = _compiled(mesh, block)
    size = max(1, min(queries_at_once, len(queries)))

    def blocks() -> Iterator[jax.Array]:
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            asked = queries[part], query_groups[part].astype(np.int32), own[part]
            yield counted(*(_put(x, size, 0, whole) for x in asked), *gallery)

    return np.concatenate(list(fetched(blocks())))[: len(queries)].astype(np.int64)


@functools.cache
def _compiled(mesh: Mesh, block: int) -> Callable[..., jax.Array]:
    """`_count`, which later evaluations of the run find compiled."""
    return jax.jit(functools.partial(_count, mesh, block), out_shardings=replicated(mesh))


def _count(mesh: Mesh, block: int, queries, groups, own, items, item_groups):
    """One block of queries against all items; the arrays are global."""

    def local(queries, groups, own, items, item_groups):
        def add(count, part):
            features, theirs = part
            behind = similarities(queries, features) < own[:, None] - TIE
            others = (theirs >= 0) & (theirs != groups[:, None])
            return count + jnp.sum(others & ~behind, axis=1, dtype=jnp.int32), None

        parts = items.reshape(-1, block, items.shape[-1]), item_groups.reshape(-1, block)
        count, _ = jax.lax.scan(add, jnp.zeros(len(queries), jnp.int32), parts)
        return jax.lax.psum(count, mesh.axis_names)

    split = P(mesh.axis_names)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(), P(), split, split),
        out_specs=P(),
        check_vma=False,  # the loop starts from a constant, which becomes different on each device
    )(queries, groups, own, items, item_groups)


def _put(values: np.ndarray, rows: int, fill: float, sharding: NamedSharding) -> jax.Array:
    """A global array of `rows` rows, filled up behind `values`, which every process has."""

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        part = values[start:stop]
        missing = np.full((stop - start - len(part), *values.shape[1:]), fill, values.dtype)
        return np.concatenate([part, missing]) if len(missing) else part

    return jax.make_array_from_callback((rows, *values.shape[1:]), sharding, shard)


def fetched(results: Iterable[Any], ahead: int = 2) -> Iterator[Any]:
    """Results on the host, with at most `ahead` more under way: what is in flight is bounded."""
    waiting: deque[Any] = deque()
    for result in results:
        waiting.append(result)
        if len(waiting) > ahead:
            yield jax.device_get(waiting.popleft())
    yield from map(jax.device_get, waiting)
