"""Products with weights whose gradients leave them in a chosen type, and so are summed in it.

Weights are float32 and computed with in `dtype`. What JAX makes of `x @ kernel.astype(bfloat16)` is
a gradient in bfloat16, which devices add up as such: half the bytes on the wire. In float32 mode
the product of the backward pass accumulates and leaves in float32, at no cost but those bytes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.param import Initializer, param


def product(
    x: Float[Array, "... d"], kernel: Float[Array, "d e"], grad_dtype: str | None
) -> Float[Array, "... e"]:
    """x @ kernel in the type of x; the kernel's gradient in `grad_dtype`, None: that of x."""
    if grad_dtype != "float32" or x.dtype == jnp.float32:
        return x @ kernel.astype(x.dtype)
    return _product(x, kernel)


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    return x @ kernel.astype(x.dtype)


def _product_forward(x: Array, kernel: Array):
    return x @ kernel.astype(x.dtype), (x, kernel)


def _product_backward(kept, g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    dkernel = jnp.einsum("...d,...e->de", x, g, preferred_element_type=jnp.float32)
    return g @ kernel.T.astype(g.dtype), dkernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def add_bias(
    y: Float[Array, "... d"], bias: Float[Array, "#*n d"], grad_dtype: str | None
) -> Float[Array, "... d"]:
    """y + bias in the type of y; in float32 mode rounded once, after the sum."""
    if grad_dtype != "float32":
        return y + bias.astype(y.dtype)
    return (y.astype(jnp.float32) + bias).astype(y.dtype)


class Linear(nn.Module):
    """x @ kernel + bias; parameters as `nn.Dense` has them."""

    features: int
    bias: bool
    dtype: DTypeLike
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros
    grad_dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... e"]:
        kernel = param(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        y = product(x.astype(self.dtype), kernel, self.grad_dtype)
        if self.bias:
            bias = param(self, "bias", self.bias_init, (self.features,))
            y = add_bias(y, bias, self.grad_dtype)
        return y


class Embedding(nn.Module):
    """Rows of a table; the parameter as `nn.Embed` has it."""

    rows: int
    features: int
    dtype: DTypeLike
    init: Initializer

    @nn.compact
    def __call__(self, indices: Int[Array, "..."]) -> Float[Array, "... d"]:
        table = param(self, "embedding", self.init, (self.rows, self.features))
        # In this order the gradient of a row that thousands of texts read is summed in float32.
        return jnp.take(table, indices, axis=0).astype(self.dtype)


_PARTS = ("txt", "pool", "decoder")
"""Modules that a model of several may have beside its first."""


def with_grad_dtype(model: nn.Module, grad_dtype: str) -> nn.Module:
    """The same model, with gradients of weights in float32, bfloat16 or (auto) its compute type.

    Raises:
        InputError: a type narrower than the one it computes in, or other than float32 for it.
    """
    if grad_dtype == "auto":
        return model
    for first in ("img", "encoder"):
        if hasattr(model, first):
            named = {name: getattr(model, name, None) for name in (first, *_PARTS)}
            made = {k: with_grad_dtype(part, grad_dtype) for k, part in named.items() if part}
            return model.clone(**made)
    if not hasattr(model, "block"):
        raise InputError(
            f"optim.grad_dtype is for Transformer blocks, and {type(model).__name__} has none: "
            "leave it auto."
        )
    dtype = jnp.dtype(model.block.dtype).name
    if grad_dtype not in ("float32", dtype):
        raise InputError(
            f"optim.grad_dtype is {grad_dtype}, but products are computed in {dtype}: use float32 "
            f"or auto, or set model.dtype={grad_dtype}."
        )
    return model.clone(block=dataclasses.replace(model.block, grad_dtype=grad_dtype))
