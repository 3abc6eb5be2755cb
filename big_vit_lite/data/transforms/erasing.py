"""Random erasing: boxes of the image replaced by a colour or by noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms.crops import uniform
from big_vit_lite.data.transforms.maps import check_share, luma, require_channels
from big_vit_lite.data.transforms.op import (
    Image,
    Op,
    Size,
    require_choice,
    require_count,
    require_range,
    shown,
)

Colour = tuple[float, float, float]
TRIES = 10


@dataclass(frozen=True)
class RandomErasing(Op):
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896) as timm does it; 1 or 3 channels.

    With probability `p`, `count` boxes: the area is uniform in `area` as a share of the image and
    divided by `count`, height over width log-uniform in `aspect`; 10 tries for a box smaller than
    the image both ways, else none. What stands there then, by `mode`: const, the mean colour; rand,
    one random colour a box; pixel, noise. DeiT is p=0.25 with pixel.

    timm erases normalised images, with N(0, 1). Images here are uint8 until they are on the device,
    so noise is N(mean, std²) in [0, 1], scaled to 0..255, rounded and cut off there: of ImageNet's
    colours some 5 % of the values lie outside. `mean` and `std` should be those of the run's data.
    """

    p: float = 0.25
    mode: str = "pixel"
    count: int = 1
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    mean: Colour = (0.485, 0.456, 0.406)
    std: Colour = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check_share(self.p)
        require_choice(self.mode, "mode", ("const", "rand", "pixel"))
        require_count(self.count, "count", 1, most=100)
        require_range(self.area, "area", 1.0)
        require_range(self.aspect, "aspect")
        _check_colour(self.mean, "mean")
        _check_colour(self.std, "std")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        require_channels(image, "random_erasing")
        boxes = self.draw(image.shape[:2], rng)
        if not boxes:
            return image
        out = image.copy()
        for top, left, height, width in boxes:
            shape = (height, width, image.shape[-1])
            out[top : top + height, left : left + width] = self._content(shape, rng)
        return out

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[tuple[int, int, int, int], ...]:
        """Boxes (top, left, height, width) for an image of `size`."""
        if rng.random() >= self.p:
            return ()
        boxes = (self._box(size, rng) for _ in range(self.count))
        return tuple(box for box in boxes if box is not None)

    def _box(self, size: Size, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
        low, high = self.area
        flat, tall = (math.log(a) for a in self.aspect)
        for _ in range(TRIES):
            area = (low + rng.random() * (high - low)) * size[0] * size[1] / self.count
            aspect = math.exp(flat + rng.random() * (tall - flat))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < size[0] and width < size[1]:
                top = uniform(rng, size[0] - height + 1)
                return top, uniform(rng, size[1] - width + 1), height, width
        return None

    def _content(self, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
        mean, std = (_in_channels(v, shape[-1]) for v in (self.mean, self.std))
        if self.mode == "const":
            return np.rint(255 * mean).astype(np.uint8)
        shape = shape if self.mode == "pixel" else shape[-1:]
        noise = rng.standard_normal(shape, np.float32)
        return np.clip(np.rint(255 * (mean + std * noise)), 0, 255).astype(np.uint8)


def _check_colour(value: Colour, name: str) -> None:
    numbers = isinstance(value, tuple | list) and len(value) == 3
    numbers = numbers and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in value
    )
    if not numbers:
        raise ValueError(f"{name} is three numbers between 0 and 1, not {shown(value)}")


def _in_channels(value: Colour, channels: int) -> np.ndarray:
    """One value a channel; the luma of `value` where the image is grey."""
    return np.array(value if channels == 3 else [luma(value)], np.float32)
