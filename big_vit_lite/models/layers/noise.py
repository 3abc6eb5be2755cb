"""Noise of training as functions of explicit keys: dropout, stochastic depth, patch dropout.

Keys are arguments rather than Linen's streams, because a scanned and an unrolled stack of layers
must draw the same noise: every layer's key is fold_in(key, layer) in both.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes entries with probability `rate`, scales the rest by 1 / (1 - rate); key None: x."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def stochastic_depth(
    x: Float[Array, "b ..."], rate: Float[Array, ""] | None, key: Key[Array, ""] | None
) -> Float[Array, "b ..."]:
    """Drops a residual branch for whole samples with probability `rate` (Huang 2016).

    The branches that stay are scaled by 1 / (1 - rate). `rate` or `key` None: x.
    """
    if key is None or rate is None:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
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
