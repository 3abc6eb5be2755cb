"""What the random policies share: drawing named steps, then taking them.

A policy first draws all its steps from the generator and the image's size alone, so that what was
drawn can be looked at, compared with other implementations and taken again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from big_vit_lite.data.transforms import colour, maps
from big_vit_lite.data.transforms.crops import uniform
from big_vit_lite.data.transforms.geometry import cut
from big_vit_lite.data.transforms.maps import Fill
from big_vit_lite.data.transforms.op import Image, Op, Size


class Step(NamedTuple):
    """One operation at a fixed strength: degrees, a factor, pixels, as STEPS says."""

    name: str
    value: Any = None
    method: str = "nearest"


def sign(rng: np.random.Generator) -> float:
    """1 or -1, equally often."""
    return 1.0 if rng.random() < 0.5 else -1.0


def choose(rng: np.random.Generator, choices: tuple) -> Any:
    """One of `choices`, all equally likely."""
    return choices[uniform(rng, len(choices))]


@dataclass(frozen=True)
class Policy(Op):
    """Random operations, some steps an image. Subclasses say `name`, `fill` and `draw`."""

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Step, ...]:
        """The steps to take with an image of `size` (height, width)."""
        raise NotImplementedError

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        maps.require_channels(image, self.name)
        for step in self.draw(image.shape[:2], rng):
            image = take(step, image, self.fill)
        return image


def take(step: Step, image: Image, fill: Fill) -> Image:
    """`image` after `step`; `fill` is what maps bring in from outside."""
    return STEPS[step.name](image, step, fill)


# A step's value: degrees counter-clockwise, bits kept, threshold, addition, factor of an
# enhancement (1: no change), slope, pixels, or row, column and half side of a box.
STEPS: dict[str, Callable[[Image, Step, Fill], Image]] = {
    "identity": lambda image, step, fill: image,
    "autocontrast": lambda image, step, fill: colour.autocontrast(image),
    "equalize": lambda image, step, fill: colour.equalize(image),
    "invert": lambda image, step, fill: colour.invert(image),
    "posterize": lambda image, step, fill: colour.posterize(image, step.value),
    "solarize": lambda image, step, fill: colour.solarize(image, step.value),
    "solarize_add": lambda image, step, fill: colour.solarize_add(image, step.value),
    "color": lambda image, step, fill: colour.color(image, step.value),
    "contrast": lambda image, step, fill: colour.contrast(image, step.value),
    "brightness": lambda image, step, fill: colour.brightness(image, step.value),
    "sharpness": lambda image, step, fill: colour.sharpness(image, step.value),
    "rotate": lambda image, step, fill: maps.rotate(image, step.value, fill, step.method),
    "shear_x": lambda image, step, fill: maps.shear_x(image, step.value, fill, step.method),
    "shear_y": lambda image, step, fill: maps.shear_y(image, step.value, fill, step.method),
    "translate_x": lambda image, step, fill: maps.translate_x(image, step.value, fill, step.method),
    "translate_y": lambda image, step, fill: maps.translate_y(image, step.value, fill, step.method),
    "cutout": lambda image, step, fill: cut(image, *step.value[:2], (step.value[2],) * 2, fill),
}
