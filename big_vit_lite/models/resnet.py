"""The ResNets of CLIP (Radford 2021): a stem of three convolutions, averaging before every stride,
and attention as the pool.

images -> stem, 1/4 of the side -> four stages of bottlenecks, down to 1/32 -> attention pool
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.attention import Attention
from big_vit_lite.models.layers.blocks import rematerialised
from big_vit_lite.models.layers.inits import torch_uniform
from big_vit_lite.models.layers.param import param
from big_vit_lite.models.layers.positions import resample
from big_vit_lite.parallel import constrain

STRIDE = 32
"""Pixels of the image's side for one position of the last stage."""
EPS, MOMENTUM = 1e-5, 0.1

Maps = Float[Array, "b h w c"]


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe 2015), its running statistics stored beside scale and bias.

    Parameters `mean` and `var` get no gradient. With `of_batch` the statistics are the batch's, of
    all devices together, and the new running ones (a tenth of them and nine of the old, as torch
    has it, the variance unbiased) go to the collection "statistics": see `with_statistics`.
    """

    dtype: DTypeLike
    of_batch: bool = False
    zero: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        shape, ones, zeros = x.shape[-1:], nn.initializers.ones, nn.initializers.zeros
        scale = param(self, "scale", zeros if self.zero else ones, shape)
        bias = param(self, "bias", zeros, shape)
        mean = jax.lax.stop_gradient(param(self, "mean", zeros, shape))
        var = jax.lax.stop_gradient(param(self, "var", ones, shape))
        x = x.astype(jnp.float32)
        if self.of_batch:
            stored = {"mean": mean, "var": var}
            mean = x.mean(axis=(0, 1, 2))
            var = jnp.square(x - mean).mean(axis=(0, 1, 2))
            count = x.size // x.shape[-1]
            found = {"mean": mean, "var": var * (count / max(1, count - 1))}
            for name, old in stored.items():
                new = (1 - MOMENTUM) * old + MOMENTUM * found[name]
                self.sow("statistics", name, new, lambda _, new: new, lambda: None)
        factor = scale * jax.lax.rsqrt(var + EPS)
        return ((x - mean) * factor + bias).astype(self.dtype)


def with_statistics(params: dict[str, Any], statistics: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the new running statistics of a step.

    `statistics` is what `model.apply(..., train=True, mutable=["statistics"])` returns beside the
    outputs, its "statistics", when the norms take the batch's.
    """
    if not isinstance(statistics, dict):
        return statistics
    return params | {k: with_statistics(params[k], new) for k, new in statistics.items()}


class Convolution(nn.Module):
    """A square convolution without bias that keeps the size, or halves it with stride 2."""

    features: int
    side: int
    dtype: DTypeLike
    stride: int = 1

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = param(self, "kernel", torch_uniform(), shape).astype(self.dtype)
        around = ((self.side // 2,) * 2,) * 2
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel,
            (self.stride,) * 2,
            around,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def average(x: Maps, side: int) -> Maps:
    """Means of squares that tile the map."""
    return x if side == 1 else nn.avg_pool(x, window_shape=(side, side), strides=(side, side))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (He 2016), strides replaced by averaging."""

    width: int
    stride: int
    dtype: DTypeLike
    of_batch: bool

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        def normalized_convolution(x: Maps, features: int, side: int, name: str) -> Maps:
            x = Convolution(features, side, self.dtype, name=f"conv_{name}")(x)
            # A new block is the identity: its last norm starts at zero.
            norm = BatchNorm(self.dtype, self.of_batch, zero=name == "2", name=f"norm_{name}")
            return norm(x)

        x = constrain(x)
        y = nn.relu(normalized_convolution(x, self.width, 1, "0"))
        y = nn.relu(normalized_convolution(y, self.width, 3, "1"))
        y = normalized_convolution(average(y, self.stride), 4 * self.width, 1, "2")
        if self.stride > 1 or x.shape[-1] != 4 * self.width:
            x = normalized_convolution(average(x, self.stride), 4 * self.width, 1, "shortcut")
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A ResNet as CLIP has it; `build_model` makes one from a config.

    Fields that do not speak for themselves:
        stages: blocks of each stage; their outputs have 4, 8, 16 and 32 times `width` features.
        heads: of the attention pool.
        features: outputs of the attention pool, 0 for as many as it gets.
        image_shape: (height, width, channels) for which parameters are made; for other sizes the
            positions of the attention pool are resampled, antialiased.
        batch_statistics: train with the statistics of the batch instead of the stored ones.
        attention: a path of attention.py.
    """

    stages: tuple[int, int, int, int]
    width: int
    heads: int
    image_shape: tuple[int, int, int]
    features: int = 0
    batch_statistics: bool = False
    attention: str = "xla"
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    scan = False

    @property
    def classes(self) -> int:
        """Outputs of the pool, by the name that they have in the ViT."""
        return self.features

    def example(self) -> Float[Array, "1 H W c"]:
        """One image, to make parameters for."""
        return jnp.zeros((1, *self.image_shape))

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the last stage; raises InputError as `resnet_grid`."""
        return resnet_grid(image_size)

    @property
    def output_features(self) -> int:
        """Features of an image where no other number is asked for."""
        return 32 * self.width

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b H W c"],
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Features in float32, and a dict of what was on the way.

        Returns:
            features (b, f);
            {"stem": (b, H/4, W/4, width), "stage0"..."stage3": (b, h, w, c); "pooled": (b, f);
            "block00"... every block's output if `capture` has "blocks", "attention00" the pool's
            maps (b, heads, 1, 1 + h w) if it has "attention"}.

        Raises:
            InputError: sides that do not divide by 32, or other channels than the parameters have.
        """
        if images.shape[-1] != self.image_shape[-1]:
            raise InputError(
                f"The images have {images.shape[-1]} channels, the model {self.image_shape[-1]}: "
                "set model.channels, or convert the images."
            )
        resnet_grid(images.shape[1:3])
        of_batch = train and self.batch_statistics
        x = constrain(images).astype(self.dtype)
        for i, features in enumerate((self.width // 2, self.width // 2, self.width)):
            x = Convolution(features, 3, self.dtype, 2 if i == 0 else 1, name=f"conv_{i}")(x)
            x = nn.relu(BatchNorm(self.dtype, of_batch, name=f"norm_{i}")(x))
        x = average(x, 2)
        out = {"stem": x}
        block = rematerialised(Bottleneck, self.remat, in_scan=False)
        blocks = []
        for i, depth in enumerate(self.stages):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"stage{i}_block{j:02d}"
                x = block(self.width * 2**i, stride, self.dtype, of_batch, name=name)(x)
                blocks.append(x)
            out[f"stage{i}"] = x
        if "blocks" in capture:
            out |= {f"block{i:02d}": y for i, y in enumerate(blocks)}
        x, maps = self._pool(x, "attention" in capture)
        if maps is not None:
            out["attention00"] = maps
        out["pooled"] = x
        return constrain(x.astype(jnp.float32)), out

    def _pool(self, x: Maps, want_maps: bool) -> tuple[Float[Array, "b f"], Array | None]:
        """The mean over all positions attends to itself and to them."""
        batch, *grid, width = x.shape
        stored = resnet_grid(self.image_shape[:2])
        init = nn.initializers.normal(width**-0.5)
        table = param(self, "pos_embedding", init, (1, 1 + stored[0] * stored[1], width))[0]
        rows = resample(table[1:], stored, tuple(grid), "cubic", 0.0)
        x = x.reshape(batch, -1, width)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True, dtype=jnp.float32), x], axis=1)
        x = (x + jnp.concatenate([table[:1], rows])).astype(self.dtype)
        pool = Attention(
            heads=self.heads,
            qkv_bias=True,
            bias=True,
            implementation=self.attention,
            dtype=self.dtype,
            maps=want_maps,
            init_rule="clip",
            depth=None,
            features=self.features or width,
            name="pool",
        )
        y, maps = pool(x[:, :1], x)
        return y[:, 0], maps


def resnet_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the last stage.

    Raises:
        InputError: a side that does not divide by 32.
    """
    for size, name in zip(image_size, ("height", "width"), strict=True):
        if size % STRIDE or size < STRIDE:
            near = max(1, round(size / STRIDE)) * STRIDE
            raise InputError(
                f"The image {name} {size} is not a multiple of {STRIDE}, as ResNets want it: use "
                f"{near} pixels."
            )
    return image_size[0] // STRIDE, image_size[1] // STRIDE
