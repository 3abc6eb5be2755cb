"""Noise of training as functions of explicit keys: dropout, stochastic depth, patch dropout.

Keys are arguments rather than Linen's streams, because a scanned and an unrolled stack of layers
must draw the same noise: every layer's key is fold_in(key, layer) in both.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


@flax.struct.dataclass
class PartKey:
    """A key that draws for some rows and tokens what it would draw for all of them.

    So that a batch computed in parts, or with padding, has the noise of the whole one.

    Attributes:
        part: of the batch, rows part, part + parts, ...; None for all rows.
        tokens: how many are real; those behind them are padding, which nothing happens to.
    """

    key: Key[Array, "..."]
    part: Int[Array, ""] | None = None
    parts: int = flax.struct.field(pytree_node=False, default=1)
    tokens: int | None = flax.struct.field(pytree_node=False, default=None)


AnyKey = Key[Array, ""] | PartKey


def split_key(key: AnyKey, count: int) -> list[AnyKey]:
    """`count` keys of the same kind."""
    if isinstance(key, PartKey):
        return [key.replace(key=k) for k in jax.random.split(key.key, count)]
    return list(jax.random.split(key, count))


def _kept(
    key: AnyKey, share: float | Float[Array, ""], shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """True with probability `share`; axis 0 is the batch, the last but one the tokens."""
    if not isinstance(key, PartKey):
        return jax.random.bernoulli(key, share, shape)
    rows, *rest = shape
    padding = 0 if key.tokens is None else max(0, shape[-2] - key.tokens)
    rest[-2] -= padding
    kept = jax.random.bernoulli(key.key, share, (rows * key.parts, *rest))
    if key.part is not None:
        kept = kept.reshape(rows, key.parts, *rest)
        kept = jax.lax.dynamic_index_in_dim(kept, key.part, axis=1, keepdims=False)
    widths = [(0, 0)] * len(shape)
    widths[-2] = (0, padding)
    return jnp.pad(kept, widths, constant_values=True)


def dropout(x: Float[Array, "b ..."], rate: float, key: AnyKey | None) -> Float[Array, "b ..."]:
    """Zeroes entries with probability `rate`, scales the rest by 1 / (1 - rate); key None: x."""
    if key is None or rate == 0:
        return x
    kept = _kept(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def stochastic_depth(
    x: Float[Array, "b ..."], rate: Float[Array, ""] | None, key: AnyKey | None
) -> Float[Array, "b ..."]:
    """Drops a residual branch for whole samples with probability `rate` (Huang 2016).

    The branches that stay are scaled by 1 / (1 - rate). `rate` or `key` None: x.
    """
    if key is None or rate is None:
        return x
    kept = _kept(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)


def patch_dropout(
    tokens: Float[Array, "b n d"], rate: float, key: Key[Array, ""]
) -> tuple[Float[Array, "b k d"], Int[Array, "b k"]]:
    """A random subset of k = n (1 - rate) tokens of each sample, at least one (Li 2023, FLIP).

    Returns:
        the tokens kept, in their order, and their indices, ascending.
    """
    batch, count, _ = tokens.shape
    keep = max(1, round(count * (1 - rate)))
    order = jnp.argsort(jax.random.uniform(key, (batch, count)), axis=1)
    kept = jnp.sort(order[:, :keep], axis=1)
    return jnp.take_along_axis(tokens, kept[:, :, None], axis=1), kept
