"""Position tables: sinusoids in both published orders, and resampling to other grids.

Resampling is separable: rows W_h, columns W_w, table' = W_h table W_w'. The matrices are made in
float64 by NumPy while tracing. Published models used five rules that are not the same: with a table
of unit variance `cubic` and `cubic_torch` differ by 0.3. Where each image of a batch has a grid of
its own, the grids are arrays, and the same weights are computed on the device (`resampled_rows`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int

Grid = tuple[int, int]


def sincos2d(grid: Grid, width: int) -> Float32[np.ndarray, "n d"]:
    """Sinusoids as in MoCo v3 and big_vision: frequencies 10000^(-k / (width / 4 - 1))."""
    return _sinusoids(grid, width, last=max(width // 4 - 1, 1))


def sincos2d_mae(grid: Grid, width: int) -> Float32[np.ndarray, "n d"]:
    """Sinusoids as in MAE (He 2022): frequencies 10000^(-k / (width / 4))."""
    return _sinusoids(grid, width, last=width // 4)


def _sinusoids(grid: Grid, width: int, last: int) -> Float32[np.ndarray, "n d"]:
    """sin x, cos x, sin y, cos y, width / 4 features each: columns come first in both."""
    omega = 10000.0 ** (-np.arange(width // 4) / last)
    y, x = (axis.reshape(-1, 1) * omega for axis in np.mgrid[: grid[0], : grid[1]])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


SINUSOIDS = {"sincos2d": sincos2d, "sincos2d_mae": sincos2d_mae}


def resample(
    table: Float[Array, "n d"], old: Grid, new: Grid, rule: str, offset: float = 0.0
) -> Float[Array, "m d"]:
    """A position table for another grid; the same table where the grids are equal.

    Args:
        rule: cubic (Keys a = -0.5, antialiased: jax.image.resize, torch's bicubic antialias=True;
            timm, open_clip, DINOv2 with registers), cubic_torch (a = -0.75, not antialiased,
            border replicated: torch's default bicubic; transformers, DeiT, MAE, DINOv2), bilinear
            (torch's bilinear), bilinear_antialiased (the same with antialias=True, jax's "linear";
            NaFlex) or align_corners (scipy.ndimage.zoom of order 1; big_vision).
        offset: added to the new size when the source step is taken, old / (new + offset). DINOv2's
            hub models without registers have 0.1, which changes the result visibly. Unused by
            align_corners.
    """
    if old == new:
        return table
    rows, columns = (
        jnp.asarray(resample_matrix(m, n, rule, offset), table.dtype)
        for m, n in zip(old, new, strict=True)
    )
    planes = table.reshape(*old, -1)
    # Exact products: a table is resampled once a step, and accelerators round factors to bf16.
    planes = jnp.einsum(
        "im,jn,mnd->ijd", rows, columns, planes, precision=jax.lax.Precision.HIGHEST
    )
    return planes.reshape(new[0] * new[1], -1)


def resample_matrix(
    old: int, new: int, rule: str, offset: float = 0.0
) -> Float64[np.ndarray, "new old"]:
    """The weights of `old` source points in each of `new` points along one axis."""
    if rule == "align_corners":
        centres = np.arange(new) * ((old - 1) / max(new - 1, 1))
        return _taps(centres, old, reach=1, kernel=_triangle)
    step = old / (new + offset)
    centres = (np.arange(new) + 0.5) * step - 0.5
    if rule == "bilinear":
        return _taps(np.clip(centres, 0, old - 1), old, reach=1, kernel=_triangle)
    if rule == "cubic_torch":
        return _taps(centres, old, reach=2, kernel=lambda x: _cubic(x, -0.75))
    kernels = {"cubic": lambda x: _cubic(x, -0.5), "bilinear_antialiased": _triangle}
    if rule not in kernels:
        raise ValueError(f"{rule!r} is not a rule of resampling positions.")
    # Antialiased: the kernel is as wide as the step when shrinking, and cut, not replicated, at
    # the border, where the weights are normalised to sum to 1.
    distance = (centres[:, None] - np.arange(old)) / max(step, 1)
    weights = kernels[rule](distance)
    return weights / weights.sum(axis=1, keepdims=True)


def resampled_rows(
    table: Float[Array, "n d"],
    old: Grid,
    new: Int[Array, "b 2"],
    at: Int[Array, "b p 2"],
    rule: str,
) -> Float[Array, "b p d"]:
    """Rows of position tables for the grids of a batch's images, at the patches that they have.

    Args:
        old: grid of the table.
        new: (rows, columns) of each image.
        at: row and column of each patch.
        rule: bilinear_antialiased or bilinear, as for `resample`.
    """
    weights = []
    for axis, points in enumerate(old):
        step = points / new[:, None, axis].astype(jnp.float32)
        centres = (at[:, :, axis] + 0.5) * step - 0.5
        centres = jnp.clip(centres, 0, points - 1) if rule == "bilinear" else centres
        width = 1.0 if rule == "bilinear" else jnp.maximum(step, 1)[:, :, None]
        distance = jnp.abs(centres[:, :, None] - jnp.arange(points)) / width
        taps = jnp.maximum(1 - distance, 0)
        weights.append(taps / taps.sum(axis=-1, keepdims=True))
    rows, columns = weights
    both = (rows[:, :, :, None] * columns[:, :, None, :]).reshape(*rows.shape[:2], -1)
    return jnp.matmul(both, table.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _taps(centres: Float64[np.ndarray, "new"], old: int, reach: int, kernel) -> np.ndarray:
    """2 * reach source points around each centre; those outside count for the border's point."""
    weights = np.zeros((len(centres), old))
    for tap in range(1 - reach, reach + 1):
        points = np.floor(centres) + tap
        at = np.clip(points, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(len(centres)), at), kernel(centres - points))
    return weights


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The interpolation kernel of Keys 1981 with free parameter `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
