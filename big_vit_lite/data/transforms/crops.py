"""Crops: central, random, padded, and the Inception crop of random area and aspect ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms.op import (
    MOST_SIDE,
    Image,
    ImageFault,
    Op,
    Size,
    pair,
    require_choice,
    require_count,
    require_pixels,
    require_range,
)
from big_vit_lite.data.transforms.resize import RULES, check_filter, resize


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
    """The middle `size` pixels of each side.

    Of odd margins the smaller half is above and left by rule "tensorflow", and half of the margin
    is rounded to the even number by rule "torchvision" (margins of 3 leave 2 above, of 5 also 2).
    """

    size: int | Size
    rule: str = "tensorflow"

    def __post_init__(self) -> None:
        pair(self.size, "size")
        require_choice(self.rule, "rule", RULES)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        size = self.output_size(None)
        _require_fits(image, size)
        margins = image.shape[0] - size[0], image.shape[1] - size[1]
        torchvision = self.rule == "torchvision"
        top, left = (round(m / 2) if torchvision else m // 2 for m in margins)
        return _crop(image, size, top, left)

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")


@dataclass(frozen=True)
class RandomCrop(Op):
    """`size` pixels of each side, from any place in the image with `pad` more on every side.

    `mode` is what the padding holds: constant (0) or reflect. DeiT III's "simple random crop" is
    resize_small(224, 'bicubic')|random_crop(224, 4, 'reflect').
    """

    size: int | Size
    pad: int = 0
    mode: str = "constant"

    def __post_init__(self) -> None:
        pair(self.size, "size")
        require_count(self.pad, "pad", most=MOST_SIDE)
        require_choice(self.mode, "mode", ("constant", "reflect"))

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        size = self.output_size(None)
        if self.pad:
            image = _padded(image, self.pad, reflect=self.mode == "reflect")
        _require_fits(image, size)
        top = uniform(rng, image.shape[0] - size[0] + 1)
        left = uniform(rng, image.shape[1] - size[1] + 1)
        return _crop(image, size, top, left)

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")


def _padded(image: Image, pad: int, reflect: bool) -> Image:
    height, width = image.shape[:2]
    require_pixels((height + 2 * pad, width + 2 * pad))
    if not reflect:
        return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    rows, columns = np.arange(-pad, height + pad), np.arange(-pad, width + pad)
    return image[_mirror(rows, height)][:, _mirror(columns, width)]


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


def moved(
    image: Image, down: int, right: int, reflect: bool = False, fill: int | np.ndarray = 0
) -> Image:
    """`image` moved by whole pixels; what comes in is `fill`, or the image mirrored at its edge."""
    height, width = image.shape[:2]
    if reflect:
        rows = _mirror(np.arange(height) - down, height)
        columns = _mirror(np.arange(width) - right, width)
        return image[rows][:, columns]
    out = np.full_like(image, fill)
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

    Two rules draw boxes whose areas are within `scale`, as shares of the image, and whose aspect
    ratios (width over height) are within `ratio`. They also set what is left out:

    | rule | shapes | scale | ratio | antialias |
    |---|---|---|---|---|
    | tensorflow | ratio uniform, then the height uniform | (0.05, 1) | (0.75, 1.33) | False |
    | torchvision | area uniform, logarithm of the ratio uniform | (0.08, 1) | (3/4, 4/3) | True |

    "tensorflow" is sample_distorted_bounding_box, as in the ViT recipes of big_vision; where 100
    draws fit nowhere it takes the whole image. "torchvision" is its RandomResizedCrop, as in the
    recipes of CLIP, DeiT, MAE and timm; after 10 draws it takes the largest central box within
    `ratio`.
    """

    size: int | Size
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    method: str = "bilinear"
    antialias: bool | None = None
    rule: str = "tensorflow"

    def __post_init__(self) -> None:
        pair(self.size, "size")
        require_choice(self.rule, "rule", RULES)
        torchvision = self.rule == "torchvision"
        left_out = {
            "scale": (0.08, 1.0) if torchvision else (0.05, 1.0),
            "ratio": (3 / 4, 4 / 3) if torchvision else (0.75, 1.33),
            "antialias": torchvision,
        }
        for name, value in left_out.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # frozen, but only now complete
        require_range(self.scale, "scale", 1.0)
        require_range(self.ratio, "ratio")
        check_filter(self.method, self.antialias)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        top, left, height, width = self.box(image.shape[0], image.shape[1], rng)
        cropped = _crop(image, (height, width), top, left)
        return resize(cropped, self.output_size(None), self.method, self.antialias)

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of one crop of an image of this height and width."""
        if self.rule == "torchvision":
            return self._torchvision_box(height, width, rng)
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
                return _placed(tall, wide, height, width, rng)
        return 0, 0, height, width

    def _torchvision_box(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        narrow, broad = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            share = self.scale[0] + rng.random() * (self.scale[1] - self.scale[0])
            area = share * height * width
            aspect = math.exp(narrow + rng.random() * (broad - narrow))
            tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < tall <= height and 0 < wide <= width:
                return _placed(tall, wide, height, width, rng)
        tall, wide = height, width
        if width / height < self.ratio[0]:
            tall = max(round(width / self.ratio[0]), 1)
        elif width / height > self.ratio[1]:
            wide = max(round(height * self.ratio[1]), 1)
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")


def _placed(tall: int, wide: int, height: int, width: int, rng: np.random.Generator) -> tuple:
    """(top, left, height, width) of a box anywhere in the image."""
    top = uniform(rng, height - tall + 1)
    return top, uniform(rng, width - wide + 1), tall, wide
