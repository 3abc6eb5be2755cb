"""Flips, shifts, small affine maps and cutout: the image keeps its size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms.crops import moved, uniform
from big_vit_lite.data.transforms.decode import by_fours, opencv
from big_vit_lite.data.transforms.op import Image, Op, pair, require_count, require_number


def between(rng: np.random.Generator, limit: float) -> float:
    """Uniform in [-limit, limit)."""
    return (2 * rng.random() - 1) * limit


def warp(image: Image, matrix: np.ndarray, fill: int = 0) -> Image:
    """The image under the affine `matrix` (2, 3) from old to new pixel centres (x, y).

    Bilinear between pixels; outside the image stands `fill`.
    """
    cv2 = opencv()
    size = image.shape[1::-1]
    options = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT}
    options["borderValue"] = (fill,) * 4
    return by_fours(lambda part: cv2.warpAffine(part, matrix, size, **options), image)


def about_centre(linear: np.ndarray, shift: tuple[float, float], image: Image) -> np.ndarray:
    """Matrix (2, 3) of the map `linear` (2, 2) about the image's centre, then `shift` (x, y)."""
    centre = np.array([(image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2])
    return np.column_stack([linear, centre - linear @ centre + shift])


@dataclass(frozen=True)
class Flip(Op):
    """Mirrored left to right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        require_number(self.p, "p", 0, 1)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        if rng.random() >= self.p:
            return image
        return by_fours(lambda part: opencv().flip(part, 1), image)


@dataclass(frozen=True)
class VerticalFlip(Op):
    """Mirrored top to bottom with probability `p`, for images without an upside."""

    p: float = 0.5

    def __post_init__(self) -> None:
        require_number(self.p, "p", 0, 1)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        if rng.random() >= self.p:
            return image
        return by_fours(lambda part: opencv().flip(part, 0), image)


@dataclass(frozen=True)
class Shift(Op):
    """Moved by up to `pixels` whole pixels each way; what comes in is 0."""

    pixels: int

    def __post_init__(self) -> None:
        require_count(self.pixels, "pixels")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        span = 2 * self.pixels + 1
        down, right = uniform(rng, span) - self.pixels, uniform(rng, span) - self.pixels
        return moved(image, down, right)


@dataclass(frozen=True)
class Translate(Op):
    """Moved by up to `share` of its height and of its width, by whole pixels; `fill` comes in.

    As torchvision's RandomAffine(0, translate=(share, share)) draws it: uniform, then rounded.
    """

    share: float
    fill: int = 0

    def __post_init__(self) -> None:
        require_number(self.share, "share", 0, 1)
        require_number(self.fill, "fill", 0, 255)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        height, width = image.shape[:2]
        right = round(between(rng, self.share * width))
        down = round(between(rng, self.share * height))
        return moved(image, down, right, fill=self.fill)


@dataclass(frozen=True)
class Rotate(Op):
    """Turned about the centre by up to `degrees` either way, bilinear; corners become `fill`."""

    degrees: float
    fill: int = 0

    def __post_init__(self) -> None:
        require_number(self.degrees, "degrees", 0, 180)
        require_number(self.fill, "fill", 0, 255)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        angle = math.radians(between(rng, self.degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        linear = np.array([[cos, sin], [-sin, cos]])
        return warp(image, about_centre(linear, (0.0, 0.0), image), self.fill)


@dataclass(frozen=True)
class Affine(Op):
    """A small random affine map about the centre, bilinear: turn, shear, zoom and move at once.

    Each is uniform up to its limit either way: `degrees`, `translate` in pixels (fractions too),
    `scale` as a share (0.1: from 0.9 to 1.1), `shear` in degrees. What comes in is `fill`.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    fill: int = 0

    def __post_init__(self) -> None:
        require_number(self.degrees, "degrees", 0, 180)
        require_number(self.translate, "translate")
        require_number(self.scale, "scale", 0, 0.99)
        require_number(self.shear, "shear", 0, 89)
        require_number(self.fill, "fill", 0, 255)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        angle = math.radians(between(rng, self.degrees))
        shift = between(rng, self.translate), between(rng, self.translate)
        zoom = 1 + between(rng, self.scale)
        lean = math.tan(math.radians(between(rng, self.shear)))
        cos, sin = math.cos(angle), math.sin(angle)
        linear = zoom * np.array([[cos, sin], [-sin, cos]]) @ np.array([[1.0, lean], [0.0, 1.0]])
        return warp(image, about_centre(linear, shift, image), self.fill)


def cut(image: Image, row: int, column: int, half: tuple[int, int], fill: int) -> Image:
    """A copy with the box `half` pixels either side of (row, column) set to `fill`."""
    out = image.copy()
    top, left = max(row - half[0], 0), max(column - half[1], 0)
    out[top : row + half[0], left : column + half[1]] = fill
    return out


@dataclass(frozen=True)
class Cutout(Op):
    """A box of `size` pixels about a random pixel set to `fill` (DeVries and Taylor 2017).

    The centre is uniform over the image, so that boxes at the edge are cut off. Odd sides lose
    their last pixel.
    """

    size: int | tuple[int, int]
    fill: int = 0

    def __post_init__(self) -> None:
        if min(pair(self.size, "size")) < 2:
            raise ValueError(f"size is at least 2 pixels each way, not {self.size!r}")
        require_number(self.fill, "fill", 0, 255)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        height, width = pair(self.size, "size")
        row, column = uniform(rng, image.shape[0]), uniform(rng, image.shape[1])
        return cut(image, row, column, (height // 2, width // 2), self.fill)
