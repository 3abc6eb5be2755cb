"""Multi-head attention, and the one place where its formulation is chosen.

Paths that a test holds equal: `reference` is softmax written out and gives the attention maps;
`matmul` is the fastest on CPUs; `xla` and `cudnn` are `jax.nn.dot_product_attention`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from big_vit_lite.models.layers.noise import dropout

Heads = Float[Array, "b n h k"]
Maps = Float[Array, "b h n m"]
KEPT = "attention"
"""The name under which remat "dots" keeps what attention's gradient needs beside q, k, v."""


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


@jax.custom_vjp
def matmul_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The same as two batched matrix products, normalised after the second.

    Dividing n x k outputs instead of n x m weights is what saves time. The gradient is written out
    and computes the n x m weights again instead of keeping them, as flash attention does (Dao
    2022): forward and backward together take 0.8 of the time of what `jax.grad` makes of it.
    It has no forward-mode derivative.
    """
    return _matmul_forward(q, k, v)[0]


def _unnormalized(q: Array, k: Array) -> Float[Array, "b h n m"]:
    """exp(scores - largest of the row), float32. The result depends on no row's largest score,
    which is subtracted against overflow only, so no gradient passes through it."""
    scores = jnp.einsum("bhnk,bhmk->bhnm", q, k, preferred_element_type=jnp.float32)
    return jnp.exp(scores - scores.max(axis=-1, keepdims=True))


def _matmul_forward(q: Heads, k: Heads, v: Heads):
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    weights = _unnormalized(q, k)
    inverse = 1.0 / weights.sum(axis=-1, keepdims=True)
    y = product("bhnm,bhmk->bhnk", weights.astype(v.dtype), v) * inverse
    # Kept under remat, or all of this would be computed once more for these two alone.
    y, inverse = checkpoint_name((y.astype(v.dtype), inverse), KEPT)
    return y.swapaxes(1, 2), (q, k, v, y, inverse)


def _matmul_backward(kept, g: Heads) -> tuple[Heads, Heads, Heads]:
    q, k, v, y, inverse = kept
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    g = g.swapaxes(1, 2) * inverse
    # What each row's normalisation takes back: (weights * (g v')) summed over m.
    taken = (g * y).sum(axis=-1, keepdims=True)
    g = g.astype(v.dtype)
    weights = _unnormalized(q, k)
    dv = product("bhnm,bhnk->bhmk", weights.astype(v.dtype), g)
    dscores = (weights * (product("bhnk,bhmk->bhnm", g, v) - taken)).astype(q.dtype)
    dq = product("bhnm,bhmk->bhnk", dscores, k) * q.shape[-1] ** -0.5
    dk = product("bhnm,bhnk->bhmk", dscores, q)
    return tuple(d.astype(x.dtype).swapaxes(1, 2) for d, x in ((dq, q), (dk, k), (dv, v)))


matmul_attention.defvjp(_matmul_forward, _matmul_backward)


def dot_product_attention(q: Heads, k: Heads, v: Heads, implementation: str) -> Heads:
    """Attention by the named path: reference, matmul, xla or cudnn."""
    if implementation == "reference":
        return reference_attention(q, k, v)[0]
    if implementation == "matmul":
        return matmul_attention(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


def rows(x: Float[Array, "... d"]) -> Float[Array, "rows d"]:
    """Tokens of all images under each other, for a matrix product.

    On CPU, XLA computes the kernel's gradient in one call then; with two leading axes it first
    transposes the outputs' gradient. 8 % of a ViT-B/16 step.
    """
    return x.reshape(-1, x.shape[-1])


class Projection(nn.Module):
    """Linear map onto heads: kernel (d, heads, k) as published, applied as one matrix product.

    All tokens of the batch are its rows: see `rows`.
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
        y = rows(x).astype(self.dtype) @ kernel.reshape(width, -1).astype(self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.features)
            y = y + bias.reshape(-1).astype(self.dtype)
        return y.reshape(*x.shape[:-1], *self.features)


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
        x, leading = x.reshape(-1, heads * per_head), x.shape[:-2]
        y = x @ kernel.reshape(-1, self.features).astype(self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y.reshape(*leading, self.features)


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
