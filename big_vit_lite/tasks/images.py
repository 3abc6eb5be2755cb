"""What tasks do with a batch's images before a model sees them, on the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def normalize(images: UInt8[Array, "b h w c"], mean, std) -> Float[Array, "b h w c"]:
    """Pixels scaled to [0, 1], then (x - mean) / std per channel, in float32."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    # One multiply and one add: (x / 255 - mean) / std.
    return images.astype(jnp.float32) * (1.0 / (255.0 * std)) - mean / std


def shrink(
    images: Float[Array, "b H W c"], size: tuple[int, int] | None
) -> Float[Array, "b h w c"]:
    """Images of (height, width) `size`, each pixel the average of what it covers; None: as they
    are. For progressive training, in which a step is compiled for each size."""
    if size is None or size == images.shape[1:3]:
        return images
    shape = (len(images), *size, images.shape[-1])
    return jax.image.resize(images, shape, "linear", antialias=True)
