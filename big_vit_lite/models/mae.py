"""Masked autoencoders (He 2022, MAE): most patches are hidden, and their pixels are predicted.

image -> patches + positions -> those that are kept -> encoder (a ViT) -> linear map -> mask tokens
in the places of the hidden patches -> + positions -> decoder -> pixels of every patch
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from big_vit_lite.config import InputError
from big_vit_lite.models.clip import normalized
from big_vit_lite.models.layers.blocks import BlockSpec, Encoder
from big_vit_lite.models.layers.inits import kernel_init
from big_vit_lite.models.layers.linear import Linear
from big_vit_lite.models.layers.param import param
from big_vit_lite.models.layers.patches import patch_grid
from big_vit_lite.models.layers.positions import SINUSOIDS, resample
from big_vit_lite.models.vit import ViT
from big_vit_lite.parallel import constrain

BY_SEQUENCE = "sequence"
"""transformers' rule for decoder positions at other sizes: the table as one row of all patches."""


class Masking(NamedTuple):
    """Which patches of each image are kept.

    kept: (b, k) their indices, in the order of their noise.
    restore: (b, n) for each patch its place among the kept and then the hidden ones.
    hidden: (b, n) True for a patch whose pixels are to be predicted.
    """

    kept: Int[Array, "b k"]
    restore: Int[Array, "b n"]
    hidden: Bool[Array, "b n"]


def masking(noise: Float[Array, "b n"], ratio: float) -> Masking:
    """Keeps the floor(n (1 - ratio)) patches of least noise of each image (He 2022, appendix)."""
    keep = int(noise.shape[1] * (1 - ratio))
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return Masking(order[:, :keep], restore, restore >= keep)


class PixelDecoder(nn.Module):
    """From the encoded kept patches to the pixels of all: Transformer blocks and a linear map.

    Fields:
        block: what the decoder's blocks share; eps and activation are the encoder's.
        patch_length: numbers of a patch, ph * pw * c.
        positions: learned (a table with a first row for the class token) or fixed sinusoids.
        grid: rows and columns of the table.
        position_resample: for other grids: a rule of positions.py, or "sequence".
    """

    width: int
    depth: int
    block: BlockSpec
    patch_length: int
    positions: str
    grid: tuple[int, int]
    position_resample: str = "cubic_torch"
    remat: str = "none"
    scan: bool = False

    stack = "Transformer"

    @nn.compact
    def __call__(
        self,
        encoded: Float[Array, "b k+1 e"],
        restore: Int[Array, "b n"],
        grid: tuple[int, int],
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b n p"], dict[str, Array]]:
        """Pixels in float32, and what is on the way: "tokens" (b, n + 1, d), which enter the
        blocks, and what `Encoder` gives.

        Args:
            encoded: the class token and the kept patches, in the order of `Masking.kept`.
            restore: `Masking.restore`.
            grid: rows and columns of the image's patches.
        """
        batch, n = restore.shape
        x = self._linear("embed", encoded.shape[-1], self.width)(encoded)
        init = nn.initializers.normal(0.02)
        token = param(self, "mask_token", init, (1, 1, self.width)).astype(x.dtype)
        tokens = jnp.broadcast_to(token, (batch, n + 1 - x.shape[1], self.width))
        tokens = jnp.concatenate([x[:, 1:], tokens], axis=1)
        tokens = jnp.take_along_axis(tokens, restore[:, :, None], axis=1)
        with jax.named_scope("positions"):
            x = jnp.concatenate([x[:, :1], tokens], axis=1) + self._table(grid).astype(x.dtype)
        encoder = Encoder(self.depth, self.block, remat=self.remat, scan=self.scan, name=self.stack)
        tokens = constrain(x)
        x, out = encoder(tokens, None, capture)
        pixels = self._linear("head", self.width, self.patch_length)(x[:, 1:])
        return constrain(pixels.astype(jnp.float32)), out | {"tokens": tokens}

    def _linear(self, name: str, inputs: int, outputs: int) -> Linear:
        """MAE's linear maps start from Xavier-uniform values and zeros."""
        return Linear(
            outputs,
            bias=True,
            dtype=self.block.dtype,
            kernel_init=kernel_init("xavier", "mlp_in"),
            bias_init=nn.initializers.zeros,
            grad_dtype=self.block.grad_dtype,
            name=name,
        )

    def _table(self, grid: tuple[int, int]) -> Float[Array, "1 n+1 d"]:
        """Positions of the class token and of the patches on `grid`."""
        n = self.grid[0] * self.grid[1]
        if self.positions == "learned":
            init = nn.initializers.normal(0.02)
            table = param(self, "pos_embedding", init, (1, 1 + n, self.width))[0]
            first, table = table[:1], table[1:]
        else:
            table = jnp.asarray(SINUSOIDS[self.positions](self.grid, self.width))
            first = jnp.zeros((1, self.width))
        if self.position_resample == BY_SEQUENCE:
            rows = resample(table, (1, n), (1, grid[0] * grid[1]), "cubic_torch")
        else:
            rows = resample(table, self.grid, grid, self.position_resample)
        return jnp.concatenate([first, rows])[None]


class MAE(nn.Module):
    """An image tower that sees a part of the patches, and a decoder of the others' pixels.

    Parameters are encoder/..., those of a `ViT` with a class token, and decoder/... (embed,
    mask_token, Transformer, head; pos_embedding where it is a table). `build_mae` makes one from a
    config.
    """

    encoder: ViT
    decoder: PixelDecoder
    mask_ratio: float = 0.75

    @property
    def scan(self) -> bool:
        """Whether parameters of either part have a depth axis."""
        return self.encoder.scan or self.decoder.scan

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of (height, width).

        Raises:
            InputError: they do not tile it.
        """
        return patch_grid(size, self.encoder.patch, self.encoder.patch_stride)

    def __call__(
        self,
        images: Float[Array, "b H W c"],
        noise: Float[Array, "b n"] | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b n p"], dict[str, Array]]:
        """Predicted pixels of every patch in float32, and a dict of what was on the way.

        Args:
            images: normalised floats.
            noise: numbers whose order hides patches, see `masking`; None: uniform ones, for which
                rngs={"mask": key} is needed.
            train: draw the encoder's noise of training.
            capture: as for `ViT`.

        Returns:
            pixels (b, n, ph * pw * c) in `patchify`'s order: of the patches' normalised pixels, or
            of pixels in units of each patch's own spread, as the loss has it;
            {"hidden": (b, n), and what encoder and decoder give as encoder/... and decoder/...}.

        Raises:
            InputError: images, noise and patches do not fit each other, or there is no noise.
        """
        grid = self.grid(images.shape[1:3])
        shape = (len(images), grid[0] * grid[1])
        if noise is None:
            if not self.has_rng("mask"):
                raise InputError(
                    'MAE hides patches at random: give noise (b, n), or rngs={"mask": key}.'
                )
            noise = jax.random.uniform(self.make_rng("mask"), shape)
        if noise.shape != shape:
            raise InputError(
                f"noise is {tuple(noise.shape)}, and the images have {shape[1]} patches: give "
                f"{shape}."
            )
        kept, restore, hidden = masking(constrain(noise), self.mask_ratio)
        _, seen = self.encoder(images, train=train, capture=capture, kept=kept)
        with jax.named_scope("decoder"):
            pixels, decoded = self.decoder(seen["encoded"], restore, grid, capture)
        out = {f"encoder/{name}": x for name, x in seen.items()}
        out |= {f"decoder/{name}": x for name, x in decoded.items()}
        return pixels, out | {"hidden": hidden}

    def encode_image(
        self,
        images: Float[Array, "b H W c"],
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b d"], dict[str, Array]]:
        """Normalised features of whole images; `model.apply(..., method="encode_image")`."""
        return normalized(*self.encoder(images, train=train, capture=capture))
