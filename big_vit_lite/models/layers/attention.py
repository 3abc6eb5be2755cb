"""Multi-head attention, and the one place where its formulation is chosen.

Paths that a test holds equal: `reference` is softmax written out and gives the attention maps;
`matmul` is the fastest on CPUs; `xla` and `cudnn` are `jax.nn.dot_product_attention`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from big_vit_lite.models.layers.noise import dropout

Heads = Float[Array, "b n h k"]
Maps = Float[Array, "b h n m"]


def choose_attention(wanted: str, platform: str, dtype: DTypeLike, head_dim: int) -> str:
    """What "auto" means on a platform; other names pass through.

    On CPU `matmul` takes 0.85 of `xla`'s time for a ViT-B/16 layer with its gradient, 0.6 without.
    cuDNN's flash attention takes half types and heads of at most 128 features, a multiple of 8.
    """
    if wanted != "auto":
        return wanted
    if platform == "cpu":
        return "matmul"
    half = jnp.dtype(dtype).itemsize == 2
    fits = head_dim % 8 == 0 and head_dim <= 128
    return "cudnn" if platform == "gpu" and half and fits else "xla"


def reference_attention(
    q: Heads, k: Heads, v: Heads, rate: float = 0.0, key: Key[Array, ""] | None = None
) -> tuple[Heads, Maps]:
    """softmax(q k' / sqrt(head features)) v, and the softmax (Vaswani 2017).

    Scores and softmax are float32. `rate` and `key` drop entries of the maps, of which the ones
    before dropout are returned.
    """
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    maps = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)
    dropped = dropout(maps, rate, key).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", dropped, v), maps


def matmul_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The same as two batched matrix products, normalised after the second.

    Dividing n x k outputs instead of n x m weights is what saves time. The maximum is subtracted
    against overflow only: the result does not depend on it, so no gradient passes.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    y = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / total).astype(v.dtype).swapaxes(1, 2)


def dot_product_attention(q: Heads, k: Heads, v: Heads, implementation: str) -> Heads:
    """Attention by the named path: reference, matmul, xla or cudnn."""
    if implementation == "reference":
        return reference_attention(q, k, v)[0]
    if implementation == "matmul":
        return matmul_attention(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


class Projection(nn.Module):
    """Linear map onto heads: kernel (d, heads, k) as published, applied as one matrix product.

    Xavier-uniform over the flattened (d, heads * k), which is what `nn.DenseGeneral` does too.
    """

    features: tuple[int, int]
    bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Heads:
        width = x.shape[-1]

        def flat_xavier(key, shape, dtype=jnp.float32):
            flat = nn.initializers.xavier_uniform()(key, (width, shape[1] * shape[2]), dtype)
            return flat.reshape(shape)

        kernel = self.param("kernel", flat_xavier, (width, *self.features))
        y = x.astype(self.dtype) @ kernel.reshape(width, -1).astype(self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.features)
            y = y + bias.reshape(-1).astype(self.dtype)
        return y.reshape(*y.shape[:-1], *self.features)


class Merge(nn.Module):
    """Linear map from heads back to features: kernel (heads, k, d), Xavier over (heads * k, d)."""

    features: int
    bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Heads) -> Float[Array, "b n d"]:
        heads, per_head = x.shape[-2:]

        def flat_xavier(key, shape, dtype=jnp.float32):
            flat = nn.initializers.xavier_uniform()(key, (shape[0] * shape[1], shape[2]), dtype)
            return flat.reshape(shape)

        kernel = self.param("kernel", flat_xavier, (heads, per_head, self.features))
        y = x.reshape(*x.shape[:-2], -1) @ kernel.reshape(-1, self.features).astype(self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class Attention(nn.Module):
    """Multi-head attention (Vaswani 2017) of tokens to `context`, by default to themselves.

    Returns:
        the tokens, and the attention maps if `maps`, else None. Maps and dropout of attention take
        the reference path, because no fused one has them.
    """

    heads: int
    qkv_bias: bool
    bias: bool
    implementation: str
    dtype: DTypeLike
    dropout: float = 0.0
    maps: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m d"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b n d"], Maps | None]:
        width = x.shape[-1]
        per_head = (self.heads, width // self.heads)
        context = x if context is None else context
        q, k, v = (
            Projection(per_head, self.qkv_bias, self.dtype, name=name)(source)
            for name, source in (("query", x), ("key", context), ("value", context))
        )
        maps = None
        with jax.named_scope("dot_product_attention"):
            if self.maps or (key is not None and self.dropout):
                y, maps = reference_attention(q, k, v, self.dropout, key)
            else:
                y = dot_product_attention(q, k, v, self.implementation)
        return Merge(width, self.bias, self.dtype, name="out")(y), maps if self.maps else None
