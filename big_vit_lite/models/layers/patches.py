"""From images to patch tokens: a linear map of each patch, or a convolution where they overlap."""

import flax.linen as nn
import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.inits import torch_uniform
from big_vit_lite.models.layers.linear import add_bias, product
from big_vit_lite.models.layers.param import param


def patch_grid(
    image_size: tuple[int, int],
    patch: tuple[int, int],
    stride: tuple[int, int],
    drop_edge: bool = False,
) -> tuple[int, int]:
    """Rows and columns of patches in an image: floor((size - patch) / stride) + 1 a side.

    Raises:
        InputError: patches that do not overlap and do not tile the image, unless `drop_edge` lets
            pixels at the right and lower edge be lost; or that do not fit in it.
    """
    for size, side, step, name in zip(image_size, patch, stride, ("height", "width"), strict=True):
        if step == side and size % side and not drop_edge:
            near = max(1, round(size / side)) * side
            raise InputError(
                f"The image {name} {size} is not a multiple of the patch {name} {side}: use "
                f"{near} pixels, another patch (model.patch), or overlapping ones "
                "(model.patch_stride); model.drop_edge leaves the rest out."
            )
        if size < side:
            raise InputError(
                f"The image {name} {size} is smaller than the patch {name} {side}: use larger "
                "images or a smaller patch (model.patch)."
            )
    rows, columns = (
        (size - side) // step + 1
        for size, side, step in zip(image_size, patch, stride, strict=True)
    )
    return rows, columns


def patchify(
    images: Float[Array, "b H W c"], patch: tuple[int, int]
) -> Float[Array, "b h w ph*pw*c"]:
    """Patches that tile the image, each flattened in the order row, column, channel."""
    batch, height, width, channels = images.shape
    rows, columns = patch
    x = images.reshape(batch, height // rows, rows, width // columns, columns, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // rows, width // columns, rows * columns * channels)


class PatchEmbedding(nn.Module):
    """Embeds patches linearly (Dosovitskiy 2021); kernel (ph, pw, c, d) as of a convolution.

    Patches that tile the image are one reshape and one matrix product, which is what a convolution
    with stride = patch computes. A smaller stride convolves. `init_rule` is one of inits.py.
    """

    width: int
    patch: tuple[int, int]
    stride: tuple[int, int]
    bias: bool
    dtype: DTypeLike
    init_rule: str = "xavier"
    drop_edge: bool = False
    grad_dtype: str | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        rows, columns = patch_grid(images.shape[1:3], self.patch, self.stride, self.drop_edge)
        shape = (*self.patch, images.shape[-1], self.width)
        init = torch_uniform() if self.init_rule == "torch" else nn.initializers.lecun_normal()
        kernel = param(self, "kernel", init, shape)
        images = images.astype(self.dtype)
        if self.stride == self.patch:
            images = images[:, : rows * self.patch[0], : columns * self.patch[1]]
            x = product(
                patchify(images, self.patch), kernel.reshape(-1, self.width), self.grad_dtype
            )
        else:
            x = jax.lax.conv_general_dilated(
                images,
                kernel.astype(self.dtype),
                self.stride,
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.bias:
            bias = param(self, "bias", nn.initializers.zeros, (self.width,))
            x = add_bias(x, bias, self.grad_dtype)
        return x


class FlatPatchEmbedding(nn.Module):
    """Embeds patches that are flat, in `patchify`'s order; parameters as `PatchEmbedding`."""

    width: int
    patch: tuple[int, int]
    channels: int
    bias: bool
    dtype: DTypeLike
    init_rule: str = "xavier"
    grad_dtype: str | None = None

    @nn.compact
    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        shape = (*self.patch, self.channels, self.width)
        init = torch_uniform() if self.init_rule == "torch" else nn.initializers.lecun_normal()
        kernel = param(self, "kernel", init, shape).reshape(-1, self.width)
        x = product(patches.astype(self.dtype), kernel, self.grad_dtype)
        if self.bias:
            bias = param(self, "bias", nn.initializers.zeros, (self.width,))
            x = add_bias(x, bias, self.grad_dtype)
        return x
