"""Counting what is ahead: exact, ties against us, whatever the blocks and devices; memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vit_lite import parallel
from big_vit_lite.evals import ranking


def mesh_of(devices):
    return parallel.make_mesh(devices=jax.devices()[:devices])


def features(n, e, seed):
    """Rows with few and small whole numbers: products are exact, ties are many."""
    return np.random.default_rng(seed).integers(-1, 2, (n, e)).astype(np.float32)


def brute_force(queries, groups, own, items, item_groups):
    scores = queries.astype(np.float64) @ items.T.astype(np.float64)
    others = item_groups[None] != groups[:, None]
    return (others & ~(scores < own[:, None] - ranking.TIE)).sum(1)


@pytest.mark.parametrize(
    ("devices", "blocks"), [(1, (7, 5)), (1, (1000, 1000)), (8, (16, 3)), (8, (7, 1000))]
)
def test_counts_are_those_of_all_scores_at_once(devices, blocks):
    queries, items = features(29, 6, 0), features(53, 6, 1)
    groups, item_groups = np.arange(29), np.random.default_rng(2).integers(0, 29, 53)
    own = np.einsum("ne,ne->n", queries, items[:29])
    wanted = brute_force(queries, groups, own, items, item_groups)
    strict = (queries @ items.T > own[:, None]).sum(1)
    assert (strict < wanted).mean() > 0.5  # most have ties, which a strict count would not see
    counted = ranking.count_ahead(
        mesh_of(devices), queries, groups, own, items, item_groups, *blocks
    )
    np.testing.assert_array_equal(counted, wanted)


def test_nan_is_never_behind():
    queries = np.array([[1, 0], [np.nan, 0], [1, 0]], np.float32)
    items = np.array([[1, 0], [0.5, 0], [np.nan, 0], [0.2, 0]], np.float32)
    own = np.array([1.0, 1.0, np.nan], np.float32)
    counted = ranking.count_ahead(
        mesh_of(2), queries, np.arange(3), own, items, np.array([0, 7, 7, 7])
    )
    np.testing.assert_array_equal(counted, [1, 4, 4])


def test_rounding_makes_no_difference_between_equal_items():
    """A score that was computed elsewhere, in the last bits another, is still a tie."""
    item = np.full((1, 3), 3**-0.5, np.float32)
    own = np.array([1.0 + 3e-7], np.float32)
    assert float((item @ item.T)[0, 0]) < own[0]
    other = np.array([1])
    counted = ranking.count_ahead(mesh_of(1), item, np.array([0]), own, item, other)
    np.testing.assert_array_equal(counted, [1])
    further = own + 10 * np.float32(ranking.TIE)
    counted = ranking.count_ahead(mesh_of(1), item, np.array([0]), further, item, other)
    np.testing.assert_array_equal(counted, [0])


def test_a_million_items_need_blocks_only():
    mesh, e = mesh_of(8), 64
    rows = 2**20
    whole, split = parallel.replicated(mesh), NamedSharding(mesh, P(mesh.axis_names))

    def spec(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q = ranking.QUERIES
    compiled = (
        ranking._compiled(mesh, ranking.ITEMS)
        .lower(
            spec((q, e), jnp.float32, whole),
            spec((q,), jnp.int32, whole),
            spec((q,), jnp.float32, whole),
            spec((rows, e), jnp.float32, split),
            spec((rows,), jnp.int32, split),
        )
        .compile()
    )
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes < 1.1 * (rows // 8 + q) * 4 * (e + 1) + 2**20
    of_all = q * (rows // 8) * 4  # bytes of all scores of one block of queries
    assert memory.temp_size_in_bytes < of_all / 5
