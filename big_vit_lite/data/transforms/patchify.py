"""Images as patch sequences at their own aspect ratio (NaFlex: Tschannen et al. 2025, SigLIP 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms.op import (
    MOST_PIXELS,
    Image,
    ImageFault,
    Several,
    Size,
    Specs,
    pair,
    require_count,
    shown,
)
from big_vit_lite.data.transforms.resize import check_filter, resize

_PRECISION = 1e-5  # of the search for the scale, as in the published processor


@dataclass(frozen=True)
class Patchify(Several):
    """The image as at most `budget` patches of `patch` pixels, the rest zeros.

    It is resized to the most whole patches that fit the budget at nearly its aspect ratio (see
    `fitted`); with resize=False it must divide into patches as it is. Arrays:

      patches: uint8 (budget, ph * pw * C), rows of patches first; within a patch the order is row,
        column, channel, as in the kernel of a patch embedding.
      positions: int32 (budget, 2), row and column of each patch in the grid.
      patch_mask: bool (budget,), False on the filling.
    """

    patch: int | Size = 16
    budget: int = 256
    method: str = "bilinear"
    antialias: bool = True
    resize: bool = True

    def __post_init__(self) -> None:
        area = math.prod(pair(self.patch, "patch"))
        require_count(self.budget, "budget", 1, MOST_PIXELS // area)
        check_filter(self.method, self.antialias)
        if not isinstance(self.resize, bool):
            raise ValueError(f"resize is True or False, not {shown(self.resize)}")

    def __call__(self, image: Image, rng: np.random.Generator) -> dict[str, np.ndarray]:
        high, wide = pair(self.patch, "patch")
        if self.resize:
            size = fitted(image.shape[:2], (high, wide), self.budget)
            image = resize(image, size, self.method, self.antialias)
        else:
            self._require_fits(image)
        channels = image.shape[-1]
        rows, columns = image.shape[0] // high, image.shape[1] // wide
        grid = image.reshape(rows, high, columns, wide, channels).transpose(0, 2, 1, 3, 4)
        n = rows * columns
        patches = np.zeros((self.budget, high * wide * channels), np.uint8)
        patches[:n] = grid.reshape(n, -1)
        positions = np.zeros((self.budget, 2), np.int32)
        positions[:n, 0], positions[:n, 1] = np.divmod(np.arange(n), columns)
        return {
            "patches": patches,
            "positions": positions,
            "patch_mask": np.arange(self.budget) < n,
        }

    def _require_fits(self, image: Image) -> None:
        (high, wide), (height, width) = pair(self.patch, "patch"), image.shape[:2]
        if height % high or width % wide:
            raise ImageFault(
                f"the image is {height}x{width}, which does not divide into patches of "
                f"{high}x{wide}; resize it first, or write patchify with resize=True"
            )
        if (n := (height // high) * (width // wide)) > self.budget:
            raise ImageFault(
                f"the image is {height}x{width}, which makes {n} patches of {high}x{wide}, more "
                f"than the budget of {self.budget}; resize it first, or write patchify with "
                "resize=True"
            )

    def specs(self, size: Size | None, channels: int | None) -> Specs:
        area = math.prod(pair(self.patch, "patch"))
        return {
            "patches": ((self.budget, channels and area * channels), np.uint8),
            "positions": ((self.budget, 2), np.int32),
            "patch_mask": ((self.budget,), np.bool_),
        }


def fitted(size: Size, patch: Size, budget: int) -> Size:
    """(height, width) in whole patches, at most `budget` of them, for an image of `size`.

    Both sides are multiplied by one scale and rounded up to whole patches; the scale is the largest
    that keeps the budget, found by halving [1e-6, 100] down to 1e-5. This is SigLIP 2's rule
    (get_image_size_for_max_num_patches in transformers), and timm's NaFlex rule but for sizes that
    would need a scale at the ends of that range, which timm refuses. Small images are enlarged.
    """
    low, high = _PRECISION / 10, 100.0
    while high - low >= _PRECISION:
        scale = (low + high) / 2
        if math.prod(_grid(size, patch, scale)) <= budget:
            low = scale
        else:
            high = scale
    rows, columns = _grid(size, patch, low)
    return rows * patch[0], columns * patch[1]


def _grid(size: Size, patch: Size, scale: float) -> Size:
    return tuple(
        max(1, math.ceil(side * scale / step)) for side, step in zip(size, patch, strict=True)
    )
