"""Multi-head attention, and the one place where its formulation is chosen.

Paths that a test holds equal: `reference` is softmax written out and gives the attention maps;
`matmul` is the fastest on CPUs; `xla` and `cudnn` are `jax.nn.dot_product_attention`. All take a
mask of what each query may look at, and leave no query without anything.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from big_vit_lite.models.layers.inits import kernel_init
from big_vit_lite.models.layers.linear import add_bias, product
from big_vit_lite.models.layers.noise import dropout
from big_vit_lite.models.layers.param import Initializer, param
from big_vit_lite.parallel import axis_size, constrain, whole_tokens

Heads = Float[Array, "b n h k"]
Maps = Float[Array, "b h n m"]
Mask = Bool[Array, "#b #h n m"]
"""True where query n may look at token m."""
KEPT = "attention"
"""The name under which remat "dots" keeps what attention's gradient needs beside q, k, v."""


def choose_attention(wanted: str, platform: str, dtype: DTypeLike, head_dim: int) -> str:
    """What "auto" means on a platform; other names pass through.

    On CPU `matmul` takes 0.85 of `xla`'s time for a ViT-B/16 layer with its gradient, 0.6 without.
    cuDNN's flash attention takes half types and heads of at most 128 features, a multiple of 8, and
    not all lengths and masks, which are seen when it is called.
    """
    if wanted != "auto":
        return wanted
    if platform == "cpu":
        return "matmul"
    half = jnp.dtype(dtype).itemsize == 2
    fits = head_dim % 8 == 0 and head_dim <= 128
    return "cudnn" if platform == "gpu" and half and fits else "xla"


def causal_mask(n: int) -> Mask:
    """Each of n tokens sees itself and those before it."""
    return jnp.tril(jnp.ones((1, 1, n, n), bool))


def _masked(scores: Float[Array, "b h n m"], mask: Mask | None) -> Float[Array, "b h n m"]:
    # Finite, so that no gradient can become inf - inf.
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)


def reference_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
    mask: Mask | None = None,
) -> tuple[Heads, Maps]:
    """softmax(q k' / sqrt(head features)) v, and the softmax (Vaswani 2017).

    Scores and softmax are float32. `rate` and `key` drop entries of the maps, of which the ones
    before dropout are returned.
    """
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    maps = jax.nn.softmax(_masked(scores * q.shape[-1] ** -0.5, mask), axis=-1)
    dropped = dropout(maps, rate, key).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", dropped, v), maps


@jax.custom_vjp
def matmul_attention(q: Heads, k: Heads, v: Heads, mask: Mask | None = None) -> Heads:
    """The same as two batched matrix products, normalised after the second.

    Dividing n x k outputs instead of n x m weights is what saves time. The gradient is written out
    and computes the n x m weights again instead of keeping them, as flash attention does (Dao
    2022): forward and backward together take 0.8 of the time of what `jax.grad` makes of it.
    It has no forward-mode derivative.
    """
    return _matmul_forward(q, k, v, mask)[0]


def _unnormalized(q: Array, k: Array, mask: Mask | None) -> Float[Array, "b h n m"]:
    """exp(scores - largest of the row), float32. The result depends on no row's largest score,
    which is subtracted against overflow only, so no gradient passes through it."""
    scores = jnp.einsum("bhnk,bhmk->bhnm", q, k, preferred_element_type=jnp.float32)
    scores = _masked(scores, mask)
    return jnp.exp(scores - scores.max(axis=-1, keepdims=True))


def _matmul_forward(q: Heads, k: Heads, v: Heads, mask: Mask | None):
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    weights = _unnormalized(q, k, mask)
    inverse = 1.0 / weights.sum(axis=-1, keepdims=True)
    y = product("bhnm,bhmk->bhnk", weights.astype(v.dtype), v) * inverse
    # Kept under remat, or all of this would be computed once more for these two alone.
    y, inverse = checkpoint_name((y.astype(v.dtype), inverse), KEPT)
    return y.swapaxes(1, 2), (q, k, v, mask, y, inverse)


def _matmul_backward(kept, g: Heads) -> tuple[Heads, Heads, Heads, None]:
    q, k, v, mask, y, inverse = kept
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    g = g.swapaxes(1, 2) * inverse
    # What each row's normalisation takes back: (weights * (g v')) summed over m.
    taken = (g * y).sum(axis=-1, keepdims=True)
    g = g.astype(v.dtype)
    weights = _unnormalized(q, k, mask)
    dv = product("bhnm,bhnk->bhmk", weights.astype(v.dtype), g)
    dscores = (weights * (product("bhnk,bhmk->bhnm", g, v) - taken)).astype(q.dtype)
    dq = product("bhnm,bhmk->bhnk", dscores, k) * q.shape[-1] ** -0.5
    dk = product("bhnm,bhnk->bhmk", dscores, q)
    pairs = ((dq, q), (dk, k), (dv, v))
    return *(d.astype(x.dtype).swapaxes(1, 2) for d, x in pairs), None


matmul_attention.defvjp(_matmul_forward, _matmul_backward)


def dot_product_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    implementation: str,
    causal: bool = False,
    mask: Mask | None = None,
) -> Heads:
    """Attention by the named path: reference, matmul, xla or cudnn.

    `causal` is for queries and keys of one sequence; with `mask` both hold. What cuDNN's kernel
    does not take, xla computes: see `cudnn_takes`.
    """
    if implementation == "cudnn" and cudnn_takes(q.shape[1], k.shape[1], causal, mask):
        return even_attention(q, k, v, causal, "cudnn")
    if implementation in ("xla", "cudnn"):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=causal, implementation="xla"
        )
    mask = combined_mask(q.shape[1], causal, mask)
    if implementation == "reference":
        return reference_attention(q, k, v, mask=mask)[0]
    return matmul_attention(q, k, v, mask)


def cudnn_takes(queries: int, keys: int, causal: bool, mask: Mask | None) -> bool:
    """Whether cuDNN's flash attention has a gradient for these (JAX 0.10 to 0.12).

    It wants even lengths, which only a causal mask lets us make, and takes a mask as a bias of all
    queries and keys whose gradient it computes as well. One query makes no map worth a kernel.
    """
    return mask is None and queries > 1 and (causal or queries % 2 == keys % 2 == 0)


def even_attention(q: Heads, k: Heads, v: Heads, causal: bool, implementation: str) -> Heads:
    """`jax.nn.dot_product_attention` of an even number of tokens: where there are not, of a token
    more, at the end, where none of the others sees it."""
    n = q.shape[1]
    if n % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=implementation)
    return y[:, :n]


def combined_mask(n: int, causal: bool, mask: Mask | None) -> Mask | None:
    """The causal mask of n tokens, `mask`, or what both allow; None where everything is."""
    if not causal:
        return mask
    return causal_mask(n) if mask is None else causal_mask(n) & mask


def rows(x: Float[Array, "... d"]) -> Float[Array, "rows d"]:
    """Tokens of all images under each other, for a matrix product.

    On CPU, XLA computes the kernel's gradient in one call then; with two leading axes it first
    transposes the outputs' gradient. 8 % of a ViT-B/16 step. Tokens that are split over devices
    stay as they are: rows of several images under each other could not be.
    """
    return x if axis_size("sequence") > 1 else x.reshape(-1, x.shape[-1])


def _matrix_init(init: Initializer, inputs: int) -> Initializer:
    """Draws a kernel as the matrix from its first `inputs` axes to the others."""

    def draw(key, shape, dtype=jnp.float32):
        matrix = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
        return init(key, matrix, dtype).reshape(shape)

    return draw


class Projection(nn.Module):
    """Linear map onto heads: kernel (d, heads, k) as published, applied as one matrix product.

    All tokens of the batch are its rows: see `rows`.
    Initial values are of the flattened (d, heads * k), as `nn.DenseGeneral` has them too.
    """

    features: tuple[int, int]
    bias: bool
    dtype: DTypeLike
    init_rule: str = "xavier"
    grad_dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Heads:
        width = x.shape[-1]
        init = _matrix_init(kernel_init(self.init_rule, "qkv"), 1)
        kernel = param(self, "kernel", init, (width, *self.features))
        y = product(rows(x).astype(self.dtype), kernel.reshape(width, -1), self.grad_dtype)
        if self.bias:
            bias = param(self, "bias", nn.initializers.zeros, self.features)
            y = add_bias(y, bias.reshape(-1), self.grad_dtype)
        return y.reshape(*x.shape[:-1], *self.features)


class Merge(nn.Module):
    """Linear map from heads back to features: kernel (heads, k, d), drawn as (heads * k, d)."""

    features: int
    bias: bool
    dtype: DTypeLike
    init_rule: str = "xavier"
    depth: int | None = None
    grad_dtype: str | None = None

    @nn.compact
    def __call__(self, x: Heads) -> Float[Array, "b n d"]:
        heads, per_head = x.shape[-2:]
        init = _matrix_init(kernel_init(self.init_rule, "out", self.depth), 2)
        kernel = param(self, "kernel", init, (heads, per_head, self.features))
        leading = x.shape[:-2]
        x = rows(x.reshape(*leading, heads * per_head))
        y = product(x, kernel.reshape(-1, self.features), self.grad_dtype)
        if self.bias:
            bias = param(self, "bias", nn.initializers.zeros, (self.features,))
            y = add_bias(y, bias, self.grad_dtype)
        return y.reshape(*leading, self.features)


class Attention(nn.Module):
    """Multi-head attention (Vaswani 2017) of tokens to `context`, by default to themselves.

    `init_rule` and `depth` name initial values as inits.py has them; `features` are the outputs, by
    default as many as the tokens'.

    Returns:
        the tokens, and the attention maps if `maps`, else None. Maps and dropout of attention take
        the reference path, because no fused one has them.

    Where the mesh splits tokens over `sequence`, `tokens` says how many are real: each device
    computes its queries against the keys and values of all of them.
    """

    heads: int
    qkv_bias: bool
    bias: bool
    implementation: str
    dtype: DTypeLike
    dropout: float = 0.0
    maps: bool = False
    causal: bool = False
    init_rule: str = "xavier"
    depth: int | None = None
    features: int | None = None
    tokens: int | None = None
    grad_dtype: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m c"] | None = None,
        key: Key[Array, ""] | None = None,
        mask: Mask | None = None,
    ) -> tuple[Float[Array, "b n e"], Maps | None]:
        width = x.shape[-1]
        per_head = (self.heads, width // self.heads)
        context = x if context is None else context
        options = (self.dtype, self.init_rule)
        q, k, v = (
            Projection(per_head, self.qkv_bias, *options, self.grad_dtype, name=name)(source)
            for name, source in (("query", x), ("key", context), ("value", context))
        )
        implementation = self.implementation
        if self.tokens is not None:
            q = constrain(q, "sequence", "tensor")
            k, v = whole_tokens(k, self.tokens), whole_tokens(v, self.tokens)
            # cuDNN's kernel is split over batch and heads only.
            implementation = "xla" if implementation == "cudnn" else implementation
        maps = None
        with jax.named_scope("dot_product_attention"):
            if self.maps or (key is not None and self.dropout):
                mask = combined_mask(x.shape[1], self.causal, mask)
                y, maps = reference_attention(q, k, v, self.dropout, key, mask)
            else:
                y = dot_product_attention(q, k, v, implementation, self.causal, mask)
        features = width if self.features is None else self.features
        out = Merge(features, self.bias, *options, self.depth, self.grad_dtype, name="out")
        return out(y), maps if self.maps else None
