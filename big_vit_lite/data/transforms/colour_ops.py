"""Single colour operations for transform texts, each taken with a probability `p`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from big_vit_lite.data.transforms import colour
from big_vit_lite.data.transforms.geometry import between
from big_vit_lite.data.transforms.maps import check_share, require_channels
from big_vit_lite.data.transforms.op import (
    Image,
    Op,
    require_count,
    require_number,
    require_range,
)


@dataclass(frozen=True)
class ColourOp(Op):
    """One operation for 1 or 3 channels, with probability `p`. Subclasses say `name` and `change`.

    Whether, and then how, are drawn from the generator in this order.
    """

    def __post_init__(self) -> None:
        check_share(self.p)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        require_channels(image, self.name)
        return self.change(image, rng) if rng.random() < self.p else image

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        raise NotImplementedError


@dataclass(frozen=True)
class Grayscale(ColourOp):
    """The luma in all channels (SimCLR, BYOL, DINO: p=0.2)."""

    p: float = 1.0
    name: ClassVar[str] = "grayscale"

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.grayscale(image)


@dataclass(frozen=True)
class Autocontrast(ColourOp):
    """Each channel stretched over 0..255."""

    p: float = 1.0
    name: ClassVar[str] = "autocontrast"

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.autocontrast(image)


@dataclass(frozen=True)
class Equalize(ColourOp):
    """Each channel's histogram made even."""

    p: float = 1.0
    name: ClassVar[str] = "equalize"

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.equalize(image)


@dataclass(frozen=True)
class Invert(ColourOp):
    """255 - value."""

    p: float = 1.0
    name: ClassVar[str] = "invert"

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.invert(image)


@dataclass(frozen=True)
class Posterize(ColourOp):
    """Only the `bits` highest bits of each value stay."""

    bits: int
    p: float = 1.0
    name: ClassVar[str] = "posterize"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.bits, "bits", most=8)

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.posterize(image, self.bits)


@dataclass(frozen=True)
class Solarize(ColourOp):
    """Values from `threshold` on inverted (BYOL, DINO: p=0.2 on the second view)."""

    threshold: float = 128
    p: float = 1.0
    name: ClassVar[str] = "solarize"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.threshold, "threshold", 0, 256)

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.solarize(image, self.threshold)


@dataclass(frozen=True)
class Sharpness(ColourOp):
    """Between a smoothed image (factor 0), the image (1) and a sharpened one (beyond)."""

    factor: float
    p: float = 1.0
    name: ClassVar[str] = "sharpness"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.factor, "factor", 0, 100)

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        return colour.sharpness(image, self.factor)


@dataclass(frozen=True)
class GaussianBlur(ColourOp):
    """Pillow's Gaussian blur; its standard deviation in pixels is uniform in `sigma`.

    As DINO, DeiT III and timm blur. Mind that DINOv2's code blurs with one minus the probability
    that it states, view 1 never and view 2 with 0.9: see `views`.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 1.0
    name: ClassVar[str] = "gaussian_blur"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self.sigma, "sigma", 100)

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        low, high = self.sigma
        return colour.gaussian_blur(image, low + rng.random() * (high - low))


@dataclass(frozen=True)
class ThreeAugment(ColourOp):
    """DeiT III's 3-Augment (Touvron et al. 2022, arXiv 2204.07118); 1 or 3 channels.

    One of three an image, equally likely: grayscale, solarize from 128 on, Gaussian blur with a
    standard deviation from U(0.1, 2). The recipe has color_jitter(0.3, 0.3, 0.3) after it.
    """

    p: float = 1.0
    name: ClassVar[str] = "three_augment"

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        which = int(rng.random() * 3)
        if which == 0:
            return colour.grayscale(image)
        if which == 1:
            return colour.solarize(image, 128)
        return colour.gaussian_blur(image, 0.1 + rng.random() * 1.9)


@dataclass(frozen=True)
class ColorJitter(ColourOp):
    """Brightness, contrast, saturation and hue changed at random, in random order.

    As torchvision and timm: a factor is uniform in [max(0, 1 - x), 1 + x] for each of the first
    three, the hue turns by U(-hue, hue) of a circle. SimCLR is (0.8, 0.8, 0.8, 0.2, p=0.8), BYOL
    and DINO (0.4, 0.4, 0.2, 0.1, p=0.8), DeiT III (0.3, 0.3, 0.3). Grey images have neither
    saturation nor hue to change.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0
    p: float = 1.0
    name: ClassVar[str] = "color_jitter"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            require_number(getattr(self, name), name, 0, 100)
        require_number(self.hue, "hue", 0, 0.5)

    def draw(self, rng: np.random.Generator) -> tuple[tuple[str, Any], ...]:
        """(operation, factor or turn) in the order in which they are to be applied."""
        changes = [
            (name, _factor(limit, rng))
            for name, limit in (
                ("brightness", self.brightness),
                ("contrast", self.contrast),
                ("color", self.saturation),
            )
            if limit
        ]
        if self.hue:
            changes.append(("hue", between(rng, self.hue)))
        # Fisher-Yates; `rng.permutation` costs more than the operations on a small image.
        for i in range(len(changes) - 1, 0, -1):
            j = int(rng.random() * (i + 1))
            changes[i], changes[j] = changes[j], changes[i]
        return tuple(changes)

    def change(self, image: Image, rng: np.random.Generator) -> Image:
        for name, value in self.draw(rng):
            image = getattr(colour, name)(image, value)
        return image


def _factor(limit: float, rng: np.random.Generator) -> float:
    """Uniform in [max(0, 1 - limit), 1 + limit]."""
    low = max(0.0, 1.0 - limit)
    return low + rng.random() * (1.0 + limit - low)
