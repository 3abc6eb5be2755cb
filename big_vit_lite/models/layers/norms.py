"""Layer normalisation with float32 statistics, and the learned scale of a residual branch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from big_vit_lite.models.layers.param import param


class LayerNorm(nn.Module):
    """Layer normalisation (Ba 2016): biased variance, statistics in float32, output in `dtype`.

    The variance is the mean square of the centred input. E[x^2] - E[x]^2, Linen's default, loses
    every digit where the mean is large against the spread.
    """

    eps: float
    bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x = x.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.eps)
        x = x * param(self, "scale", nn.initializers.ones, x.shape[-1:])
        if self.bias:
            x = x + param(self, "bias", nn.initializers.zeros, x.shape[-1:])
        return x.astype(self.dtype)


class LayerScale(nn.Module):
    """A learned factor per feature on a residual branch (Touvron 2021, CaiT)."""

    value: float

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        scale = param(self, "scale", nn.initializers.constant(self.value), x.shape[-1:])
        return x * scale.astype(x.dtype)
