"""The ResNet of hybrids, from whose maps patches are cut (Dosovitskiy 2021, section 3.1).

It is BiT's, with group norms and standardised kernels (Kolesnikov 2020), but with its norms behind
the convolutions.

images -> 7x7 convolution and maximum, 1/4 of the side -> stages of bottlenecks, each but the first
halves it
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.param import param
from big_vit_lite.models.sizes import maps_stride
from big_vit_lite.parallel import constrain

GROUPS = 32
STANDARDIZE = {
    "deviation": lambda variance: jnp.sqrt(variance) + 1e-5,
    "variance": lambda variance: jnp.sqrt(variance + 1e-8),
}
"""What a kernel is divided by: in vision_transformer, and in timm."""

Maps = Float[Array, "b h w c"]


@dataclasses.dataclass(frozen=True)
class StemSpec:
    """What the parts of a hybrid's ResNet share.

    Attributes:
        stages: blocks of each stage; stage i has 4 * 2**i times `width` features. None of them: the
            convolution and the maximum alone, with `width` features.
        width: features of the first convolution, a multiple of 32.
        norm_eps: added to the variance in group norms.
        standardize: one of STANDARDIZE.
        dtype: of the convolutions; statistics are float32.
        remat: whether the backward pass computes the inside of blocks anew.
    """

    stages: tuple[int, ...]
    width: int = 64
    norm_eps: float = 1e-6
    standardize: str = "deviation"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def features(self) -> int:
        """Of the maps that come out."""
        return self.width * 2 ** (len(self.stages) + 1) if self.stages else self.width

    def grid(self, image_size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the maps.

        Raises:
            InputError: a side that does not divide by what a patch of the maps sees.
        """
        step = maps_stride(self.stages)
        for size, side, name in zip(image_size, patch, ("height", "width"), strict=True):
            if size % (step * side) or not size:
                near = max(1, round(size / (step * side))) * step * side
                raise InputError(
                    f"The image {name} {size} is not a multiple of {step * side}, the pixels that "
                    f"a patch of this hybrid is wide: use {near} pixels, or another model.variant."
                )
        return image_size[0] // step, image_size[1] // step


class StandardizedConvolution(nn.Module):
    """A square convolution without bias, its kernels of mean 0 and deviation 1 (Qiao 2019)."""

    spec: StemSpec
    features: int
    side: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = param(self, "kernel", nn.initializers.lecun_normal(), shape)
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        variance = jnp.square(kernel).mean(axis=(0, 1, 2))
        kernel = kernel / STANDARDIZE[self.spec.standardize](variance)
        return jax.lax.conv_general_dilated(
            x.astype(self.spec.dtype),
            kernel.astype(self.spec.dtype),
            (self.stride, self.stride),
            "SAME",  # of TensorFlow: an odd rest goes to the right and below
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class GroupNorm(nn.Module):
    """Group normalisation (Wu 2018) in 32 groups, statistics in float32, as LayerNorm has them."""

    spec: StemSpec
    zero: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        batch, *_, features = x.shape
        grouped = x.astype(jnp.float32).reshape(batch, -1, GROUPS, features // GROUPS)
        grouped = grouped - grouped.mean(axis=(1, 3), keepdims=True)
        variance = jnp.square(grouped).mean(axis=(1, 3), keepdims=True)
        grouped = grouped * jax.lax.rsqrt(variance + self.spec.norm_eps)
        start = nn.initializers.zeros if self.zero else nn.initializers.ones
        scale = param(self, "scale", start, (features,))
        bias = param(self, "bias", nn.initializers.zeros, (features,))
        return (grouped.reshape(x.shape) * scale + bias).astype(self.spec.dtype)


class Unit(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (He 2016), the stride in the 3x3 one."""

    spec: StemSpec
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        def normalized(x: Maps, features: int, side: int, stride: int, name: str) -> Maps:
            convolution = StandardizedConvolution(
                self.spec, features, side, stride, name=f"conv{name}"
            )
            # A new block is the identity: its last norm starts at zero.
            return GroupNorm(self.spec, zero=name == "3", name=f"gn{name}")(convolution(x))

        x = constrain(x)
        y = nn.relu(normalized(x, self.width, 1, 1, "1"))
        y = nn.relu(normalized(y, self.width, 3, self.stride, "2"))
        y = normalized(y, 4 * self.width, 1, 1, "3")
        if self.stride > 1 or x.shape[-1] != 4 * self.width:
            x = normalized(x, 4 * self.width, 1, self.stride, "_proj")
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks of one width, of which the first may halve the side."""

    spec: StemSpec
    depth: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        unit = nn.remat(Unit) if self.spec.remat else Unit
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            x = unit(self.spec, self.width, stride, name=f"unit{i + 1}")(x)
        return x


class ResNetStem(nn.Module):
    """Maps of images for patches to be cut from; parameters have the published JAX names."""

    spec: StemSpec

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> tuple[Maps, dict[str, Array]]:
        """Maps (b, h, w, features), and {"root": (b, H/4, W/4, width), "stage1"...} on the way."""
        spec = self.spec
        x = StandardizedConvolution(spec, spec.width, 7, 2, name="conv_root")(images)
        x = nn.relu(GroupNorm(spec, name="gn_root")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        seen = {"root": x}
        for i, depth in enumerate(spec.stages):
            width, stride = spec.width * 2**i, 1 if i == 0 else 2
            x = Stage(spec, depth, width, stride, name=f"block{i + 1}")(x)
            seen[f"stage{i + 1}"] = x
        return constrain(x), seen
