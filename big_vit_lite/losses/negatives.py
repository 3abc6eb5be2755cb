"""Which negatives of a batch count, and how much: those of every row and every column, summed.

Row i of the matrix of logits holds image i against every text, column j text j against every image;
the diagonal holds the matching pairs. Losses need log sum_j exp(logit_ij) over a row's negatives,
and the same over a column's.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from big_vit_lite import config
from big_vit_lite.losses import pairwise
from big_vit_lite.losses.pairwise import LOGSUMEXP, MASKED, SUM, Form


class Negatives(NamedTuple):
    """A choice of negatives; the default takes all of them equally.

    Attributes:
        hardness: beta >= 0: a negative weighs in proportion to exp(beta * logit), with mean 1 over
            its row or column (Robinson 2021, "Contrastive Learning with Hard Negative Samples",
            eq. 4 with tau+ = 0; for images and texts Radenovic 2023, HN-NCE, with alpha = 1).
        semi_hard: only negatives that are less similar than the matching pair, by less than this
            margin, in units of similarity (Schroff 2015, "FaceNet", eq. 4). A row without any
            counts as solved.
    """

    hardness: float = 0.0
    semi_hard: float | None = None

    def check(self) -> None:
        """Raises InputError for values outside their ranges."""
        if self.hardness < 0:
            raise config.InputError(f"hardness={self.hardness} is below 0; 0 weighs all equally.")
        if self.semi_hard is not None and self.semi_hard <= 0:
            raise config.InputError(f"semi_hard={self.semi_hard} is no margin; give more than 0.")
        if self.hardness and self.semi_hard is not None:
            raise config.InputError("hardness and semi_hard both choose negatives; give one.")


def matching(x: Float[Array, "b d"], y: Float[Array, "b d"]) -> Float[Array, "b"]:
    """Similarity of each matching pair: the diagonal."""
    dtype = pairwise.accumulator(x, y)
    return jnp.sum(x.astype(dtype) * y.astype(dtype), axis=-1)


def masks(
    semi_hard: float | None,
    s: Float[Array, "m n"],
    row: Float[Array, "m"],
    column: Float[Array, "n"],
    first_row: Any,
    first_column: Any,
) -> tuple[Bool[Array, "m n"], Bool[Array, "m n"]]:
    """Where a pair of a block is a negative of its row, and of its column.

    Args:
        row, column: similarity of the row's and of the column's matching pair.
        first_row, first_column: the block's place in the matrix.
    """
    m, n = s.shape
    other = (first_row + jnp.arange(m))[:, None] != (first_column + jnp.arange(n))[None, :]
    if semi_hard is None:
        return other, other
    row, column = row[:, None], column[None, :]
    of_row = other & (s < row) & (s > row - semi_hard)
    return of_row, other & (s < column) & (s > column - semi_hard)


def _logsumexp(logits: Array, mask: Array, axis: int) -> Array:
    # Written out: jax.nn.logsumexp also guards against infinities, at four times the time on CPU.
    logits = jnp.where(mask, logits, MASKED)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=axis, keepdims=True))
    return jnp.squeeze(top, axis) + jnp.log(jnp.sum(jnp.exp(logits - top), axis=axis))


def _sum_block(semi_hard, powers, keep, rows, columns, first_row, first_column):
    """log sum over negatives of exp(power * scale * similarity), for each power, both ways."""
    (x, row, scale), (y, column) = rows, columns
    s = pairwise.similarity(x, y)
    of_row, of_column = masks(semi_hard, s, row, column, first_row, first_column)
    per_row = tuple(_logsumexp((power * scale) * s, of_row, 1) for power in powers)
    per_column = tuple(_logsumexp((power * scale) * s, of_column, 0) for power in powers)
    return (per_row, s if keep else None), per_column


def _gradient_block(semi_hard, powers, rows, columns, first_row, first_column):
    """Gradient g of similarities, as g y for rows and g^T x for columns."""
    (x, row, scale, row_sums, g_rows, s), (y, column, column_sums, g_columns) = rows, columns
    s = pairwise.similarity(x, y) if s is None else s
    of_row, of_column = masks(semi_hard, s, row, column, first_row, first_column)
    g = 0.0
    for k, power in enumerate(powers):
        logits = (power * scale) * s
        p_row = jnp.exp(jnp.where(of_row, logits - row_sums[k][:, None], MASKED))
        p_column = jnp.exp(jnp.where(of_column, logits - column_sums[k][None, :], MASKED))
        g += power * (g_rows[k][:, None] * p_row + g_columns[k][None, :] * p_column)
    return pairwise.pull_back(g, x, y)


def _sums(x, y, scale, semi_hard, powers, form, chunk, keep=False):
    pair = matching(x, y)
    block = partial(_sum_block, semi_hard, powers, keep)
    (rows, s), columns = pairwise.walk(block, (x, pair, scale), (y, pair), LOGSUMEXP, form, chunk)
    return (rows, columns), s


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def log_sums(
    x: Float[Array, "b d"],
    y: Float[Array, "b d"],
    scale: Float[Array, ""],
    powers: tuple[float, ...],
    semi_hard: float | None,
    form: Form,
    chunk: int,
) -> tuple[tuple[Float[Array, "b"], ...], tuple[Float[Array, "b"], ...]]:
    """log sum_j exp(power * scale * x_i.y_j) over negatives: of rows and of columns, each power.

    Differentiable in x, y and scale. Without negatives the sum is MASKED.
    """
    return _sums(x, y, scale, semi_hard, powers, form, chunk)[0]


def _log_sums_forward(x, y, scale, powers, semi_hard, form, chunk):
    # The full matrix is kept. Walks compute it again: all blocks together are just as large.
    sums, s = _sums(x, y, scale, semi_hard, powers, form, chunk, keep=form == "full")
    return sums, (x, y, scale, sums, s)


def _log_sums_backward(powers, semi_hard, form, chunk, kept, cotangents):
    x, y, scale, (row_sums, column_sums), s = kept
    pair = matching(x, y)
    rows = (x, pair, scale, row_sums, cotangents[0], s)
    columns = (y, pair, column_sums, cotangents[1])
    block = partial(_gradient_block, semi_hard, powers)
    gy, gx = pairwise.walk(block, rows, columns, SUM, form, chunk)
    # sum(g * s) without another pass over the matrix, and better conditioned.
    d_scale = jnp.sum(gy * x).astype(scale.dtype)
    return (scale * gy).astype(x.dtype), (scale * gx).astype(y.dtype), d_scale


log_sums.defvjp(_log_sums_forward, _log_sums_backward)


def negative_log_sums(
    x: Float[Array, "b d"],
    y: Float[Array, "b d"],
    scale: Float[Array, ""],
    negatives: Negatives,
    form: Form,
    chunk: int,
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """log sum_j w_ij exp(scale * x_i.y_j) over the negatives of each row and of each column."""
    negatives.check()
    scale = jnp.asarray(scale)
    beta = negatives.hardness
    if not beta:
        (rows,), (columns,) = log_sums(x, y, scale, (1.0,), negatives.semi_hard, form, chunk)
        return rows, columns
    # Weights w_ij = (b - 1) exp(beta l_ij) / sum_k exp(beta l_ik) make the sum a quotient of two.
    rows, columns = log_sums(x, y, scale, (1.0 + beta, beta), None, form, chunk)
    others = math.log(len(x) - 1) if len(x) > 1 else MASKED
    return others + rows[0] - rows[1], others + columns[0] - columns[1]
