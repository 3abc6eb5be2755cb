"""Reconstruction of hidden patches (He 2022, MAE): mean squared error where nothing was seen."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def own_units(patches: Float[Array, "b n p"], eps: float = 1e-6) -> Float[Array, "b n p"]:
    """Each patch less its mean, over the square root of its variance plus `eps`.

    The variance is the unbiased one (divided by p - 1), as MAE was trained with.
    """
    centred = patches - patches.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).sum(axis=-1, keepdims=True) / (patches.shape[-1] - 1)
    return centred / jnp.sqrt(variance + eps)


def hidden_patches(
    predicted: Float[Array, "b n p"],
    patches: Float[Array, "b n p"],
    hidden: Bool[Array, "b n"],
    normalize: bool = False,
) -> Float[Array, "b"]:
    """Mean squared error of each image over its hidden patches, float32 (He 2022, section 3).

    Args:
        predicted, patches: what the decoder gives, and the pixels themselves.
        hidden: True for the patches that count; images without one have a loss of 0.
        normalize: compare with patches in their own units (norm_pix_loss).
    """
    target = own_units(patches) if normalize else patches
    errors = jnp.square(predicted.astype(jnp.float32) - target).mean(axis=-1)
    return jnp.where(hidden, errors, 0).sum(axis=-1) / jnp.maximum(hidden.sum(axis=-1), 1)
