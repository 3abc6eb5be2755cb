"""AugMix: several chains of mild operations, averaged, and mixed with the image itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from big_vit_lite.data.transforms.crops import uniform
from big_vit_lite.data.transforms.maps import (
    Fill,
    check_fill,
    check_method,
    require_channels,
)
from big_vit_lite.data.transforms.op import Image, Op, Size, require_count, require_number, shown
from big_vit_lite.data.transforms.policy import Step, choose, sign, take


@dataclass(frozen=True)
class AugMix(Op):
    """AugMix (Hendrycks et al. 2019, arXiv 1912.02781), by the authors' code; 1 or 3 channels.

    `width` chains of `depth` operations (0: 1, 2 or 3 at random) of up to `severity` (of 10), each
    drawn from U(0.1, severity), are averaged with weights from Dirichlet(alpha, ...); the image and
    the average are blended by a share from Beta(alpha, alpha). Rounded to grey levels once, at the
    end. The authors trained ImageNet with severity 1 and CIFAR with 3. `all_ops` adds the four
    operations that ImageNet-C tests with: color, contrast, brightness, sharpness.

    The consistency loss of the paper (Jensen-Shannon, on three views) is the task's matter.
    """

    severity: float = 3
    width: int = 3
    depth: int = 0
    alpha: float = 1.0
    all_ops: bool = False
    fill: Fill = 0
    method: str = "bilinear"

    name: ClassVar[str] = "augmix"

    def __post_init__(self) -> None:
        require_number(self.severity, "severity", 0.1, 10)
        require_count(self.width, "width", 1, most=100)
        require_count(self.depth, "depth", most=100)
        require_number(self.alpha, "alpha", 1e-3)
        if not isinstance(self.all_ops, bool):
            raise ValueError(f"all_ops is True or False, not {shown(self.all_ops)}")
        check_fill(self.fill)
        check_method(self.method)

    def draw(
        self, size: Size, rng: np.random.Generator
    ) -> tuple[float, np.ndarray, tuple[tuple[Step, ...], ...]]:
        """Share of the average, weight of each chain (width,), and the chains' steps."""
        weights = rng.dirichlet((self.alpha,) * self.width)
        share = rng.beta(self.alpha, self.alpha)
        names = tuple(LEVELS) if self.all_ops else tuple(LEVELS)[:9]
        chains = []
        for _ in range(self.width):
            depth = self.depth or 1 + uniform(rng, 3)
            chains.append(tuple(self._step(choose(rng, names), size, rng) for _ in range(depth)))
        return share, weights, tuple(chains)

    def _step(self, name: str, size: Size, rng: np.random.Generator) -> Step:
        level = 0.1 + rng.random() * (self.severity - 0.1)
        return Step(name, LEVELS[name](level / 10, size, rng), self.method)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        require_channels(image, self.name)
        share, weights, chains = self.draw(image.shape[:2], rng)
        mixed = image * np.float32(1 - share)
        for weight, chain in zip(weights, chains, strict=True):
            done = image
            for step in chain:
                done = take(step, done, self.fill)
            mixed += done * np.float32(share * weight)
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


# The value of each operation at strength s = level / 10.
LEVELS: dict[str, Callable] = {
    "autocontrast": lambda s, size, rng: None,
    "equalize": lambda s, size, rng: None,
    "posterize": lambda s, size, rng: 4 - int(4 * s),
    "rotate": lambda s, size, rng: int(30 * s) * sign(rng),
    "solarize": lambda s, size, rng: 256 - int(256 * s),
    "shear_x": lambda s, size, rng: 0.3 * s * sign(rng),
    "shear_y": lambda s, size, rng: 0.3 * s * sign(rng),
    "translate_x": lambda s, size, rng: int(size[1] / 3 * s) * sign(rng),
    "translate_y": lambda s, size, rng: int(size[0] / 3 * s) * sign(rng),
    "color": lambda s, size, rng: 0.1 + 1.8 * s,
    "contrast": lambda s, size, rng: 0.1 + 1.8 * s,
    "brightness": lambda s, size, rng: 0.1 + 1.8 * s,
    "sharpness": lambda s, size, rng: 0.1 + 1.8 * s,
}
