"""Crops: central, random, padded, and the Inception crop of random area and aspect ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms.op import (
    Image,
    ImageFault,
    Op,
    Size,
    pair,
    require_choice,
    require_count,
    require_range,
)
from big_vit_lite.data.transforms.resize import check_filter, resize


def uniform(rng: np.random.Generator, n: int) -> int:
    """A whole number in [0, n), three times cheaper than `rng.integers`."""
    return int(rng.random() * n)


def _crop(image: Image, size: Size, top: int, left: int) -> Image:
    return image[top : top + size[0], left : left + size[1]]


def _require_fits(image: Image, size: Size) -> None:
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        raise ImageFault(
            f"the image is {image.shape[0]}x{image.shape[1]}, smaller than the crop "
            f"{size[0]}x{size[1]}; enlarge it first with resize_small"
        )


@dataclass(frozen=True)
class CentralCrop(Op):
    """The middle `size` pixels of each side; of odd margins the smaller half is above and left."""

    size: int | Size

    def __post_init__(self) -> None:
        pair(self.size, "size")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        size = self.output_size(None)
        _require_fits(image, size)
        top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
        return _crop(image, size, top, left)

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")


@dataclass(frozen=True)
class RandomCrop(Op):
    """`size` pixels of each side, from any place in the image."""

    size: int | Size

    def __post_init__(self) -> None:
        pair(self.size, "size")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        size = self.output_size(None)
        _require_fits(image, size)
        top = uniform(rng, image.shape[0] - size[0] + 1)
        left = uniform(rng, image.shape[1] - size[1] + 1)
        return _crop(image, size, top, left)

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")


@dataclass(frozen=True)
class PadCrop(Op):
    """`pad` pixels more on every side, then a random crop of the old size (He et al. 2016).

    `mode` is what the padding holds: constant (0) or reflect.
    """

    pad: int
    mode: str = "constant"

    def __post_init__(self) -> None:
        require_count(self.pad, "pad")
        require_choice(self.mode, "mode", ("constant", "reflect"))

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        top, left = uniform(rng, 2 * self.pad + 1), uniform(rng, 2 * self.pad + 1)
        return moved(image, self.pad - top, self.pad - left, reflect=self.mode == "reflect")


def moved(image: Image, down: int, right: int, reflect: bool = False) -> Image:
    """`image` moved by whole pixels; what comes in is 0, or the image mirrored at its edge."""
    height, width = image.shape[:2]
    if reflect:
        rows = _mirror(np.arange(height) - down, height)
        columns = _mirror(np.arange(width) - right, width)
        return image[rows][:, columns]
    out = np.zeros_like(image)
    if abs(down) < height and abs(right) < width:
        out[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
            max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
        ]
    return out


def _mirror(at: np.ndarray, n: int) -> np.ndarray:
    """Positions mirrored at 0 and n - 1, the edge itself not repeated: -1 is 1."""
    if n == 1:
        return np.zeros_like(at)
    at = np.abs(at) % (2 * n - 2)
    return np.where(at < n, at, 2 * n - 2 - at)


@dataclass(frozen=True)
class RandomResizedCrop(Op):
    """The Inception crop (Szegedy et al. 2015): a random box of the image, brought to one size.

    Boxes are drawn as TensorFlow's sample_distorted_bounding_box does for the published ViT
    recipes: aspect ratio (width over height) uniform in `ratio`, then the height uniform between
    those that give the areas `scale`, as shares of the image. Where 100 draws fit nowhere the whole
    image is taken.
    """

    size: int | Size
    scale: tuple[float, float] = (0.05, 1.0)
    ratio: tuple[float, float] = (0.75, 1.33)
    method: str = "bilinear"
    antialias: bool = False

    def __post_init__(self) -> None:
        pair(self.size, "size")
        require_range(self.scale, "scale", 1.0)
        require_range(self.ratio, "ratio")
        check_filter(self.method, self.antialias)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        top, left, height, width = self.box(image.shape[0], image.shape[1], rng)
        cropped = _crop(image, (height, width), top, left)
        return resize(cropped, self.output_size(None), self.method, self.antialias)

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of one crop of an image of this height and width."""
        low, high = (share * height * width for share in self.scale)
        for _ in range(100):
            aspect = self.ratio[0] + rng.random() * (self.ratio[1] - self.ratio[0])
            # The box fits in both directions when its height is at most `most`.
            most = min(round(math.sqrt(high / aspect)), height, int((width + 0.5) / aspect))
            least = min(round(math.sqrt(low / aspect)), most)
            tall = least + uniform(rng, most - least + 1)
            wide = round(tall * aspect)
            # Rounding to whole pixels may leave the range of areas: one row more or less mends it.
            if tall * wide < low:
                tall, wide = tall + 1, round((tall + 1) * aspect)
            elif tall * wide > high:
                tall, wide = tall - 1, round((tall - 1) * aspect)
            fits = 0 < tall <= height and 0 < wide <= width
            if fits and low <= tall * wide <= high:
                top = uniform(rng, height - tall + 1)
                return top, uniform(rng, width - wide + 1), tall, wide
        return 0, 0, height, width

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")
