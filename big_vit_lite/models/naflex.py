"""Images of any aspect ratio in one batch: NaFlex (Tschannen 2025, SigLIP 2; Dehghani 2023, NaViT).

Each image is a sequence of patches with their places in its grid, filled up to one length. The
parameters are those of a ViT; the positions are resampled for each image's grid, and no token looks
at the filling.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.linear import add_bias
from big_vit_lite.models.layers.noise import dropout
from big_vit_lite.models.layers.param import param
from big_vit_lite.models.layers.patches import FlatPatchEmbedding
from big_vit_lite.models.layers.positions import resampled_rows
from big_vit_lite.models.vit import ViT
from big_vit_lite.parallel import constrain


class Patches(NamedTuple):
    """Images as sequences of patches, as the transform `patchify` makes them.

    patches: (b, n, ph * pw * c) normalised floats, in the order row, column, channel; filling is 0.
    positions: (b, n, 2) row and column of each patch in its image's grid; 0 for filling.
    mask: (b, n) False for filling.
    """

    patches: Float[Array, "b n p"]
    positions: Int[Array, "b n 2"]
    mask: Bool[Array, "b n"]

    def grid(self) -> Int[Array, "b 2"]:
        """Rows and columns of each image: one more than the last place."""
        places = jnp.where(jnp.asarray(self.mask)[:, :, None], jnp.asarray(self.positions), 0)
        return places.max(axis=1) + 1


class NaFlexViT(ViT):
    """A Vision Transformer of `Patches`; `build_model` makes it where model.max_patches is set.

    Its fields and its parameters are those of `ViT`, without class token and registers.
    """

    def example(self) -> Patches:
        """One image of the table's own grid."""
        rows, columns = self.position_grid
        n, length = rows * columns, self._patch_length
        places = jnp.stack(jnp.divmod(jnp.arange(n), columns), axis=-1)[None]
        return Patches(jnp.zeros((1, n, length)), places, jnp.ones((1, n), bool))

    @property
    def _patch_length(self) -> int:
        return self.patch[0] * self.patch[1] * self.image_shape[-1]

    @nn.compact
    def __call__(
        self,
        images: Patches,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """As `ViT`, of patches; what comes back for filling has no meaning.

        Raises:
            InputError: the patches are not `Patches`, or of another size than the model's.
        """
        self._check_capture(capture)
        if not isinstance(images, Patches) or images.patches.shape[-1] != self._patch_length:
            given = getattr(getattr(images, "patches", images), "shape", type(images).__name__)
            raise InputError(
                f"This model reads models.Patches of {self.patch[0]}x{self.patch[1]} pixels and "
                f"{self.image_shape[-1]} channels, {self._patch_length} numbers each, and was given"
                f" {given}: make them with the transform patchify, or by preprocess(images)."
            )
        noise = self._noise_keys(train)
        # Places beyond an image's grid have no position, and NaN there would reach all tokens.
        places = jnp.where(images.mask[:, :, None], images.positions, 0)
        images = Patches(*map(constrain, images._replace(positions=places)))
        tokens, out = self._embed(images, noise, None)
        return self._encode(tokens, out, noise, capture, images.mask), out

    def _embed(self, images: Patches, noise: dict, kept: None):
        dtype, grad_dtype = self.block.dtype, self.block.grad_dtype
        embedding = FlatPatchEmbedding(
            self.width,
            self.patch,
            self.image_shape[-1],
            self.patch_bias,
            dtype,
            self.block.init,
            grad_dtype,
            name="embedding",
        )
        out = {"patches": embedding(images.patches)}
        with jax.named_scope("positions"):
            n = self.position_grid[0] * self.position_grid[1]
            init = nn.initializers.normal(self.position_std)
            table = param(self, "pos_embedding", init, (1, n, self.width))[0]
            rows = resampled_rows(
                table, self.position_grid, images.grid(), images.positions, self.position_resample
            )
            x = add_bias(out["patches"], rows, grad_dtype)
        x = out["tokens"] = constrain(x.astype(dtype))
        return dropout(x, self.block.dropout, noise["tokens"]), out
