"""Patch kernels for patches of another size, so that what they compute stays as it is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from big_vit_lite.models.layers.positions import resample_matrix

Shape = tuple[int, ...]


def resize_patches(
    kernel: Float[Array, "ph pw c d"], patch: tuple[int, int]
) -> Float[Array, "qh qw c d"]:
    """The kernel whose products with resized patches are nearest to those with the patches
    (Beyer 2023, FlexiViT, equation 4): the pseudo-inverse of resizing, transposed.

    Resizing is bicubic and antialiased, as timm's `resample_patch_embed` has it. For larger patches
    the products are the same; for smaller ones they are the nearest in the least squares.
    """
    old = kernel.shape[:2]
    rows, columns = (
        resample_matrix(m, n, "cubic") for m, n in zip(old, patch, strict=True)
    )  # float64
    inverse = np.linalg.pinv(np.kron(rows, columns).T)
    flat = jnp.asarray(kernel).reshape(old[0] * old[1], -1)
    exact = jax.lax.Precision.HIGHEST
    resized = jnp.matmul(jnp.asarray(inverse, kernel.dtype), flat, precision=exact)
    return resized.reshape(*patch, *kernel.shape[2:])


def patch_resize(name: str, old: Shape, new: Shape) -> Callable[[Array], Array] | None:
    """The function from one patch kernel's shape to another's; None for what is no such pair."""
    if name not in ("embedding/kernel", "img/embedding/kernel") or len(old) != 4 or len(new) != 4:
        return None
    if old[2:] != new[2:]:
        return None
    return lambda kernel: resize_patches(kernel, new[:2])
