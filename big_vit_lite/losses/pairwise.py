"""Walks over the matrix of all (image, text) pairs of a global batch, a block at a time.

A contrastive loss needs b x b similarities, but only sums over its rows and columns. A walk visits
the matrix in blocks, hands each to a function, and merges what comes back; no device holds more
than one block. Every walk gives the numbers of the whole matrix:

    full     one block; under jit with a mesh XLA splits its rows over the devices
    chunked  the device's rows, `chunk` at a time, against the columns of all devices, gathered
    ring     the device's rows against the columns of one neighbour at a time: columns and what is
             summed for them go round, half clockwise and half counter-clockwise, while blocks are
             computed (Zhai 2023, "Sigmoid Loss", fig. 1; both ways as in open_clip)

The mesh is the one of `jax.set_mesh`, rows are split over (data, fsdp); without a mesh chunked and
ring are the same loop over chunks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from big_vit_lite import config
from big_vit_lite.parallel.mesh import BATCH

Form = Literal["full", "chunked", "ring"]
CHUNK = 512
"""Rows of a block by default: a block of 512 x 32768 float32 is 64 MiB."""

Rows = Any
"""A tree of arrays with one row for each image (or each text, for the columns of the matrix)."""
Block = Callable[[Rows, Rows, Any, Any], tuple[Rows, Rows]]
"""(rows, columns, index of the first row, of the first column) -> (per row, per column).

The indices count in the global batch: where they are equal lies a matching pair."""


class Merge(NamedTuple):
    """How two blocks' results for the same row or column become one."""

    identity: float
    pair: Callable[[Array, Array], Array]
    across: Callable[[Array, tuple[str, ...]], Array]
    """All devices' results for all columns -> the merged result for this device's columns."""


def _scatter_sum(x: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.psum_scatter(x, axes, tiled=True)


def _scatter_logsumexp(x: Array, axes: tuple[str, ...]) -> Array:
    top = jax.lax.pmax(x, axes)
    mine = jax.lax.axis_index(axes) * (len(x) // jax.lax.axis_size(axes))
    own_top = jax.lax.dynamic_slice_in_dim(top, mine, len(x) // jax.lax.axis_size(axes))
    return own_top + jnp.log(_scatter_sum(jnp.exp(x - top), axes))


MASKED = -1e30
"""Logit of a pair that does not count: finite, so that no difference of two is NaN."""
SUM = Merge(0.0, jnp.add, _scatter_sum)
LOGSUMEXP = Merge(MASKED, jnp.logaddexp, _scatter_logsumexp)


def similarity(x: Float[Array, "m d"], y: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """Dot products of all pairs, in float32 (float64 for float64 features).

    Float32 features are multiplied as such: the default of GPUs and TPUs would round them to 10 or
    8 bits, and a logit scale of 100 makes 0.4 of that.
    """
    return _matmul(x, y, (((1,), (1,)), ((), ())))


def pull_back(
    g: Float[Array, "m n"], x: Float[Array, "m d"], y: Float[Array, "n d"]
) -> tuple[Float[Array, "m d"], Float[Array, "n d"]]:
    """g y and g^T x: gradients of x and y where g is that of `similarity`."""
    gy = _matmul(g.astype(y.dtype), y, (((1,), (0,)), ((), ())))
    return gy, _matmul(g.astype(x.dtype), x, (((0,), (0,)), ((), ())))


def accumulator(*arrays: Array) -> jnp.dtype:
    """The type that sums are kept in: float32, or float64 where features are float64."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _matmul(a: Array, b: Array, contracted) -> Array:
    return jax.lax.dot_general(
        a,
        b,
        contracted,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=accumulator(a, b),
    )


def walk(
    block: Block, rows: Rows, columns: Rows, merge: Merge, form: Form, chunk: int = CHUNK
) -> tuple[Rows, Rows]:
    """All blocks of the matrix, merged: (per row, per column), each as long as the batch.

    Args:
        block: must be the same function of its arguments everywhere, and close over no array.
        rows, columns: trees of arrays (b, ...), in the same order: row i belongs to column i.
            Scalars in them are the same for all.

    Raises:
        InputError: the batch does not divide over the devices, or the form is unknown.
    """
    if form not in get_args(Form):
        raise config.InputError(f"form={form!r} is none of {', '.join(get_args(Form))}.")
    if chunk < 1:
        raise config.InputError(f"chunk={chunk} rows make no block; give 1 or more.")
    if form == "full":
        return block(rows, columns, 0, 0)
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1
    for axis in BATCH if set(BATCH) <= set(mesh.axis_names) else ():
        devices *= mesh.shape[axis]
    if devices == 1:
        return _chunks(block, rows, columns, merge, chunk, 0, 0)
    batch = _length(rows)
    if batch % devices:
        raise config.InputError(
            f"A batch of {batch} pairs does not divide over {devices} devices (data x fsdp); "
            f"choose a multiple of {devices}, or form='full'."
        )

    def spec(tree):
        return jax.tree.map(lambda a: P(BATCH) if jnp.ndim(a) else P(), tree)

    local = jax.shard_map(
        partial(_ring if form == "ring" else _gathered, block, merge=merge, chunk=chunk),
        mesh=mesh,
        in_specs=(spec(rows), spec(columns)),
        out_specs=P(BATCH),
        # Loops start from constants, which are the same on every device and become different.
        check_vma=False,
    )
    return local(rows, columns)


def _length(tree: Rows) -> int:
    return next(leaf.shape[0] for leaf in jax.tree.leaves(tree) if jnp.ndim(leaf))


def _slice(tree: Rows, start, size: int) -> Rows:
    """Rows start to start + size; scalars stay."""
    return jax.tree.map(
        lambda a: jax.lax.dynamic_slice_in_dim(a, start, size) if jnp.ndim(a) else a, tree
    )


def _identity(shapes: Rows, merge: Merge) -> Rows:
    return jax.tree.map(lambda s: jnp.full(s.shape, merge.identity, s.dtype), shapes)


def _chunks(block: Block, rows, columns, merge: Merge, chunk: int, first_row, first_column):
    """`chunk` rows at a time against all of `columns`; the last block may be shorter."""
    length = _length(rows)
    if length <= chunk:
        return block(rows, columns, first_row, first_column)

    def visit(per_column, start, size):
        part = _slice(rows, start, size)
        per_row, new = block(part, columns, first_row + start, first_column)
        return jax.tree.map(merge.pair, per_column, new), per_row

    whole = length // chunk
    shapes = jax.eval_shape(block, _slice(rows, 0, chunk), columns, first_row, first_column)
    per_column, parts = jax.lax.scan(
        lambda carry, start: visit(carry, start, chunk),
        _identity(shapes[1], merge),
        jnp.arange(whole) * chunk,
    )
    per_row = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), parts)
    if length % chunk:
        per_column, rest = visit(per_column, whole * chunk, length % chunk)
        per_row = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), per_row, rest)
    return per_row, per_column


def _gathered(block: Block, rows, columns, merge: Merge, chunk: int):
    """On one device of a shard_map: own rows against the columns of all."""
    first = jax.lax.axis_index(BATCH) * _length(rows)
    everyone = jax.tree.map(
        lambda a: jax.lax.all_gather(a, BATCH, tiled=True) if jnp.ndim(a) else a, columns
    )
    per_row, per_column = _chunks(block, rows, everyone, merge, chunk, first, 0)
    return per_row, jax.tree.map(lambda a: merge.across(a, BATCH), per_column)


def _ring(block: Block, rows, columns, merge: Merge, chunk: int):
    """On one device of a shard_map: own rows against one neighbour's columns after the other's.

    A device's columns go round in two halves, one each way, so that both directions of a link are
    used. Their results follow one step behind, so that every transfer has a block to hide behind.
    """
    devices, length = jax.lax.axis_size(BATCH), _length(rows)
    me = jax.lax.axis_index(BATCH)
    half = length // 2
    # (first column within its owner's, columns, direction)
    ways = [(0, length, 1)] if half == 0 else [(0, half, 1), (half, length - half, -1)]
    travelling = [_slice(columns, start, size) for start, size, _ in ways]
    shapes = [
        jax.eval_shape(lambda r, c: _chunks(block, r, c, merge, chunk, 0, 0), rows, part)
        for part in travelling
    ]

    def send(tree, direction: int):
        to = [(i, (i + direction) % devices) for i in range(devices)]
        return jax.tree.map(lambda a: jax.lax.ppermute(a, BATCH, to) if jnp.ndim(a) else a, tree)

    def step(carry, number):
        per_row, ways_now = carry
        ways_next = []
        for (start, _, direction), (part, following) in zip(ways, ways_now, strict=True):
            owner = (me - direction * number) % devices
            arrived = send(following, direction)
            ahead = send(part, direction)
            new_rows, new_columns = _chunks(
                block, rows, part, merge, chunk, me * length, owner * length + start
            )
            per_row = jax.tree.map(merge.pair, per_row, new_rows)
            ways_next.append((ahead, jax.tree.map(merge.pair, arrived, new_columns)))
        return (per_row, ways_next), None

    begin = (
        _identity(shapes[0][0], merge),
        [(part, _identity(s[1], merge)) for part, s in zip(travelling, shapes, strict=True)],
    )
    (per_row, ended), _ = jax.lax.scan(step, begin, jnp.arange(devices))
    home = [
        send(following, direction)
        for (_, _, direction), (_, following) in zip(ways, ended, strict=True)
    ]
    return per_row, jax.tree.map(lambda *parts: jnp.concatenate(parts), *home)
