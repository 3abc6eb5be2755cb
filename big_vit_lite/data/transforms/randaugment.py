"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) as in the published ViT recipes.

Operations, magnitudes and the fill are those of the EfficientNet code that AugReg and big_vision
use: `n` operations drawn with replacement from 16, each applied at magnitude m of 10. Two of
them grow weaker with the magnitude (Posterize keeps more bits, Solarize inverts less). Values
follow Pillow's operations, which that code imitates to within 1 to 2 grey levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms import colour
from big_vit_lite.data.transforms.crops import uniform
from big_vit_lite.data.transforms.geometry import cut
from big_vit_lite.data.transforms.op import (
    Image,
    ImageFault,
    Op,
    require_count,
    require_number,
)

FILL = 128


def affine_nearest(image: Image, matrix: tuple[float, ...], fill: int = FILL) -> Image:
    """Pillow's nearest-neighbour affine: `matrix` (a, b, c, d, e, f) leads from new to old (x, y).

    x and y are measured from the outer corner of the first pixel.
    """
    from PIL import Image as Pillow

    size = image.shape[1::-1]
    options = (size, Pillow.Transform.AFFINE, matrix, Pillow.Resampling.NEAREST)
    if image.shape[-1] == 1:
        flat = Pillow.fromarray(image[..., 0])
        return np.asarray(flat.transform(*options, fillcolor=fill))[..., None]
    return np.asarray(Pillow.fromarray(image).transform(*options, fillcolor=(fill,) * 3))


def rotate(image: Image, degrees: float) -> Image:
    """Turned counter-clockwise about the centre."""
    x, y = image.shape[1] / 2, image.shape[0] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return affine_nearest(image, matrix)


def shear_x(image: Image, level: float) -> Image:
    """Row y read `level` y further right."""
    return affine_nearest(image, (1.0, level, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: Image, level: float) -> Image:
    """Column x read `level` x further down."""
    return affine_nearest(image, (1.0, 0.0, 0.0, level, 1.0, 0.0))


def translate_x(image: Image, pixels: float) -> Image:
    """Read `pixels` further right: the image moves left."""
    return affine_nearest(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0))


def translate_y(image: Image, pixels: float) -> Image:
    """Read `pixels` further down: the image moves up."""
    return affine_nearest(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels))


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _cutout(image: Image, half: int, rng: np.random.Generator) -> Image:
    row, column = uniform(rng, image.shape[0]), uniform(rng, image.shape[1])
    return cut(image, row, column, (half, half), FILL)


@dataclass(frozen=True)
class RandAugment(Op):
    """`n` random operations at `magnitude` (of 10), from 16; for 1 or 3 channels.

    `translate` and `cutout` are the largest move and the largest half side of the cut-out box, in
    pixels; the published 100 and 40 suit images of 224 pixels, smaller ones want less.
    """

    n: int
    magnitude: float
    translate: float = 100
    cutout: int = 40

    def __post_init__(self) -> None:
        require_count(self.n, "n")
        require_number(self.magnitude, "magnitude", 0, 30)
        require_number(self.translate, "translate")
        require_count(self.cutout, "cutout")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        if image.shape[-1] not in (1, 3):
            raise ImageFault(f"randaugment takes 1 or 3 channels, not {image.shape[-1]}")
        for _ in range(self.n):
            name = NAMES[uniform(rng, len(NAMES))]
            image = OPERATIONS[name](self, image, self.magnitude / 10, rng)
        return image


# What each operation does at strength s = magnitude / 10.
OPERATIONS: dict[str, Callable[[RandAugment, Image, float, np.random.Generator], Image]] = {
    "AutoContrast": lambda op, image, s, rng: colour.autocontrast(image),
    "Equalize": lambda op, image, s, rng: colour.equalize(image),
    "Invert": lambda op, image, s, rng: colour.invert(image),
    "Rotate": lambda op, image, s, rng: rotate(image, 30 * s * _sign(rng)),
    "Posterize": lambda op, image, s, rng: colour.posterize(image, min(int(s * 4), 8)),
    "Solarize": lambda op, image, s, rng: colour.solarize(image, int(s * 256)),
    "Color": lambda op, image, s, rng: colour.color(image, 0.1 + 1.8 * s),
    "Contrast": lambda op, image, s, rng: colour.contrast(image, 0.1 + 1.8 * s),
    "Brightness": lambda op, image, s, rng: colour.brightness(image, 0.1 + 1.8 * s),
    "Sharpness": lambda op, image, s, rng: colour.sharpness(image, 0.1 + 1.8 * s),
    "ShearX": lambda op, image, s, rng: shear_x(image, 0.3 * s * _sign(rng)),
    "ShearY": lambda op, image, s, rng: shear_y(image, 0.3 * s * _sign(rng)),
    "TranslateX": lambda op, image, s, rng: translate_x(image, op.translate * s * _sign(rng)),
    "TranslateY": lambda op, image, s, rng: translate_y(image, op.translate * s * _sign(rng)),
    "Cutout": lambda op, image, s, rng: _cutout(image, int(op.cutout * s), rng),
    "SolarizeAdd": lambda op, image, s, rng: colour.solarize_add(image, int(s * 110)),
}
NAMES = tuple(OPERATIONS)
