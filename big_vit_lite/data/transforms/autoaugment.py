"""AutoAugment and TrivialAugment: policies that were found, and one that needs no search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from big_vit_lite.data.transforms.crops import uniform
from big_vit_lite.data.transforms.maps import FILL, Fill, check_fill, check_method
from big_vit_lite.data.transforms.op import Size
from big_vit_lite.data.transforms.policy import Policy, Step, choose, sign

Range = Callable[[float, np.random.Generator], float | int | None]


@dataclass(frozen=True)
class AutoAugment(Policy):
    """AutoAugment's ImageNet policy (Cubuk et al. 2018, arXiv 1805.09501); 1 or 3 channels.

    One of the 25 sub-policies of the paper's Table 9 an image: two operations, each with its own
    probability and magnitude of 10 in the ranges of Table 6 (posterize keeps 4 to 8 bits, factors
    run from 0.1 to 1.9). It is timm's "original"; timm's "v0", from EfficientNet's code, is another
    list that is in no paper. Directions are drawn, `fill` is what comes in.
    """

    fill: Fill = FILL
    method: str = "nearest"

    name: ClassVar[str] = "autoaugment"

    def __post_init__(self) -> None:
        check_fill(self.fill)
        check_method(self.method)

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Step, ...]:
        steps = []
        for name, p, magnitude in choose(rng, IMAGENET):
            if rng.random() < p:
                steps.append(Step(name, FOUND[name](magnitude / 10, rng), self.method))
        return tuple(steps)


# The value of each operation at strength s = magnitude / 10.
FOUND: dict[str, Range] = {
    "autocontrast": lambda s, rng: None,
    "equalize": lambda s, rng: None,
    "invert": lambda s, rng: None,
    "rotate": lambda s, rng: 30 * s * sign(rng),
    "shear_x": lambda s, rng: 0.3 * s * sign(rng),
    "posterize": lambda s, rng: 4 + int(4 * s),
    "solarize": lambda s, rng: int(256 * s),
    "color": lambda s, rng: 0.1 + 1.8 * s,
    "contrast": lambda s, rng: 0.1 + 1.8 * s,
    "sharpness": lambda s, rng: 0.1 + 1.8 * s,
}

# (operation, probability, magnitude), twice a sub-policy.
IMAGENET = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


@dataclass(frozen=True)
class TrivialAugment(Policy):
    """TrivialAugment, wide (Mueller and Hutter 2021, arXiv 2103.10158); 1 or 3 channels.

    One of 14 operations an image, at one of 31 strengths, all equally likely; nothing to tune.
    Ranges are those of the authors' code: turns up to 135 degrees, shears to 0.99, moves to 32
    pixels, factors from 0.01 to 2, 8 bits down to 2. torchvision's factors are 1 ± 0.99 instead.
    """

    fill: Fill = 0
    method: str = "nearest"

    name: ClassVar[str] = "trivialaugment"

    def __post_init__(self) -> None:
        check_fill(self.fill)
        check_method(self.method)

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Step, ...]:
        name = choose(rng, WIDE_NAMES)
        return (Step(name, WIDE[name](uniform(rng, 31), rng), self.method),)


# The value of each operation at strength k of 30; the authors drop fractions of whole numbers.
WIDE: dict[str, Range] = {
    "identity": lambda k, rng: None,
    "autocontrast": lambda k, rng: None,
    "equalize": lambda k, rng: None,
    "rotate": lambda k, rng: int(k * 135 / 30) * sign(rng),
    "solarize": lambda k, rng: 256 - int(k * 256 / 30),
    "color": lambda k, rng: 0.01 + k * 1.99 / 30,
    "posterize": lambda k, rng: 8 - int(k * 6 / 30),
    "contrast": lambda k, rng: 0.01 + k * 1.99 / 30,
    "brightness": lambda k, rng: 0.01 + k * 1.99 / 30,
    "sharpness": lambda k, rng: 0.01 + k * 1.99 / 30,
    "shear_x": lambda k, rng: k * 0.99 / 30 * sign(rng),
    "shear_y": lambda k, rng: k * 0.99 / 30 * sign(rng),
    "translate_x": lambda k, rng: int(k * 32 / 30) * sign(rng),
    "translate_y": lambda k, rng: int(k * 32 / 30) * sign(rng),
}
WIDE_NAMES = tuple(WIDE)
