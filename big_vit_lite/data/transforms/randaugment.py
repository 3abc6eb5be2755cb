"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) in its three common readings.

The paper names 14 operations and one magnitude for all, but gives no ranges, and published models
were trained with three of them:

    randaugment        EfficientNet's code, by the paper's authors: AugReg and big_vision
    randaugment_timm   timm's: DeiT ("rand-m9-mstd0.5-inc1"), Swin, ConvNeXt
    randaugment_paper  the paper's 14 operations, AutoAugment's ranges: torchvision

Equal magnitudes mean different strengths in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from big_vit_lite.data.transforms.crops import uniform
from big_vit_lite.data.transforms.maps import (
    FILL,
    IMAGENET_FILL,
    METHODS,
    Fill,
    check_fill,
    check_method,
    check_share,
)
from big_vit_lite.data.transforms.op import (
    Size,
    require_choice,
    require_count,
    require_number,
    shown,
)
from big_vit_lite.data.transforms.policy import Policy, Step, choose, sign

Range = Callable[..., tuple]


@dataclass(frozen=True)
class RandAugment(Policy):
    """RandAugment as in the published ViT recipes (AugReg, big_vision); for 1 or 3 channels.

    Operations, magnitudes and the grey fill are those of EfficientNet's code: `n` operations drawn
    with replacement from 16, each applied at `magnitude` (of 10). Two of them grow weaker with the
    magnitude (posterize keeps more bits, solarize inverts less). Values follow Pillow's
    operations, which that code imitates to within 1 to 2 grey levels.

    `translate` and `cutout` are the largest move and the largest half side of the cut-out box, in
    pixels; the published 100 and 40 suit images of 224 pixels, smaller ones want less.
    """

    n: int
    magnitude: float
    translate: float = 100
    cutout: int = 40

    name: ClassVar[str] = "randaugment"
    fill: ClassVar[Fill] = FILL

    def __post_init__(self) -> None:
        require_count(self.n, "n", most=100)
        require_number(self.magnitude, "magnitude", 0, 30)
        require_number(self.translate, "translate")
        require_count(self.cutout, "cutout")

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Step, ...]:
        steps = []
        for _ in range(self.n):
            name = choose(rng, EFFICIENTNET_NAMES)
            steps.append(Step(name, EFFICIENTNET[name](self, self.magnitude / 10, size, rng)))
        return tuple(steps)


# The value of each operation at strength s = magnitude / 10.
EFFICIENTNET: dict[str, Range] = {
    "autocontrast": lambda op, s, size, rng: None,
    "equalize": lambda op, s, size, rng: None,
    "invert": lambda op, s, size, rng: None,
    "rotate": lambda op, s, size, rng: 30 * s * sign(rng),
    "posterize": lambda op, s, size, rng: min(int(s * 4), 8),
    "solarize": lambda op, s, size, rng: int(s * 256),
    "color": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "contrast": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "brightness": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "sharpness": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "shear_x": lambda op, s, size, rng: 0.3 * s * sign(rng),
    "shear_y": lambda op, s, size, rng: 0.3 * s * sign(rng),
    "translate_x": lambda op, s, size, rng: op.translate * s * sign(rng),
    "translate_y": lambda op, s, size, rng: op.translate * s * sign(rng),
    "cutout": lambda op, s, size, rng: (
        uniform(rng, size[0]),
        uniform(rng, size[1]),
        int(op.cutout * s),
    ),
    "solarize_add": lambda op, s, size, rng: int(s * 110),
}
EFFICIENTNET_NAMES = tuple(EFFICIENTNET)


@dataclass(frozen=True)
class RandAugmentTimm(Policy):
    """timm's RandAugment, as DeiT, Swin and ConvNeXt use it; for 1 or 3 channels.

    `n` operations drawn with replacement from 15 (no cutout: see random_erasing), each applied with
    probability `p` at a magnitude of its own drawn from N(magnitude, std²) and cut to [0, 10].
    `increasing` takes the ranges in which a larger magnitude always changes more. The defaults are
    "rand-m9-mstd0.5-inc1". `translate` is the largest move as a share of the side. `fill` is what
    maps bring in, ImageNet's mean colour unless given. `method` interpolates: nearest, bilinear,
    bicubic (DeiT), or random, one of the last two each time (timm's default).
    """

    n: int = 2
    magnitude: float = 9
    std: float = 0.5
    increasing: bool = True
    p: float = 0.5
    translate: float = 0.45
    fill: Fill = IMAGENET_FILL
    method: str = "bicubic"

    name: ClassVar[str] = "randaugment_timm"

    def __post_init__(self) -> None:
        require_count(self.n, "n", most=100)
        require_number(self.magnitude, "magnitude", 0, 10)
        require_number(self.std, "std")
        if not isinstance(self.increasing, bool):
            raise ValueError(f"increasing is True or False, not {shown(self.increasing)}")
        check_share(self.p)
        check_share(self.translate, "translate")
        check_fill(self.fill)
        require_choice(self.method, "method", (*METHODS, "random"))

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Step, ...]:
        steps = []
        for _ in range(self.n):
            name = choose(rng, TIMM_NAMES)
            if rng.random() >= self.p:
                continue
            level = min(max(rng.normal(self.magnitude, self.std), 0.0), 10.0)
            value = timm_value(self, name, level / 10, size, rng)
            method = self.method
            if method == "random":
                method = choose(rng, ("bilinear", "bicubic"))
            steps.append(Step(name, value, method))
        return tuple(steps)


def timm_value(
    op: RandAugmentTimm, name: str, s: float, size: Size, rng: np.random.Generator
) -> float | int | None:
    """The value of an operation at strength s = level / 10."""
    if op.increasing and name in TIMM_INCREASING:
        return TIMM_INCREASING[name](s, rng)
    return TIMM[name](op, s, size, rng)


TIMM: dict[str, Range] = {
    "autocontrast": lambda op, s, size, rng: None,
    "equalize": lambda op, s, size, rng: None,
    "invert": lambda op, s, size, rng: None,
    "rotate": lambda op, s, size, rng: 30 * s * sign(rng),
    "posterize": lambda op, s, size, rng: int(4 * s),
    "solarize": lambda op, s, size, rng: int(256 * s),
    "solarize_add": lambda op, s, size, rng: int(110 * s),
    "color": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "contrast": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "brightness": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "sharpness": lambda op, s, size, rng: 0.1 + 1.8 * s,
    "shear_x": lambda op, s, size, rng: 0.3 * s * sign(rng),
    "shear_y": lambda op, s, size, rng: 0.3 * s * sign(rng),
    "translate_x": lambda op, s, size, rng: op.translate * s * sign(rng) * size[1],
    "translate_y": lambda op, s, size, rng: op.translate * s * sign(rng) * size[0],
}
TIMM_NAMES = tuple(TIMM)


def _away(s: float, rng: np.random.Generator) -> float:
    """A factor 0.9 s away from 1 on either side, 0.1 at least."""
    return max(0.1, 1 + 0.9 * s * sign(rng))


TIMM_INCREASING: dict[str, Range] = {
    "posterize": lambda s, rng: 4 - int(4 * s),
    "solarize": lambda s, rng: 256 - int(256 * s),
    "color": _away,
    "contrast": _away,
    "brightness": _away,
    "sharpness": _away,
}


@dataclass(frozen=True)
class RandAugmentPaper(Policy):
    """RandAugment with the paper's 14 operations (its Figure 2); for 1 or 3 channels.

    `n` of them, drawn with replacement, at `magnitude` of `levels`: the paper tries magnitudes up
    to 30. The ranges, which the paper leaves open, are AutoAugment's (its Table 6), laid so that a
    larger magnitude changes more, as torchvision reads them: moves up to 150 of 331 pixels in
    proportion to the side, factors 0.9 either way of 1, posterize from 8 bits down to 4.
    """

    n: int = 2
    magnitude: float = 9
    levels: int = 30
    fill: Fill = 0
    method: str = "nearest"

    name: ClassVar[str] = "randaugment_paper"

    def __post_init__(self) -> None:
        require_count(self.n, "n", most=100)
        require_count(self.levels, "levels", 1)
        require_number(self.magnitude, "magnitude", 0, self.levels)
        check_fill(self.fill)
        check_method(self.method)

    def draw(self, size: Size, rng: np.random.Generator) -> tuple[Step, ...]:
        strength = self.magnitude / self.levels
        names = (choose(rng, PAPER_NAMES) for _ in range(self.n))
        return tuple(Step(name, PAPER[name](strength, size, rng), self.method) for name in names)


PAPER: dict[str, Range] = {
    "identity": lambda s, size, rng: None,
    "autocontrast": lambda s, size, rng: None,
    "equalize": lambda s, size, rng: None,
    "rotate": lambda s, size, rng: 30 * s * sign(rng),
    "solarize": lambda s, size, rng: 255 * (1 - s),
    "color": lambda s, size, rng: 1 + 0.9 * s * sign(rng),
    "posterize": lambda s, size, rng: 8 - round(4 * s),
    "contrast": lambda s, size, rng: 1 + 0.9 * s * sign(rng),
    "brightness": lambda s, size, rng: 1 + 0.9 * s * sign(rng),
    "sharpness": lambda s, size, rng: 1 + 0.9 * s * sign(rng),
    "shear_x": lambda s, size, rng: 0.3 * s * sign(rng),
    "shear_y": lambda s, size, rng: 0.3 * s * sign(rng),
    "translate_x": lambda s, size, rng: int(150 / 331 * size[1] * s * sign(rng)),
    "translate_y": lambda s, size, rng: int(150 / 331 * size[0] * s * sign(rng)),
}
PAPER_NAMES = tuple(PAPER)
