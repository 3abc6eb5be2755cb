"""What every transform is: a frozen set of arguments, called with an image and a generator.

Images are uint8 (H, W, C) with any number of channels unless an operation says otherwise. No
operation writes into the image it was given: decoded images are shared between epochs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "h w c"]
Size = tuple[int, int]
Specs = dict[str, tuple[tuple[int | None, ...], Any]]
"""Shape and type of each array of an example; None for sides that its image decides."""

# Limits that keep a mistyped number or a hostile file from taking all memory.
MOST_PIXELS = 178_956_970  # of one image: what Pillow takes for a decompression bomb beyond
MOST_SIDE = 8192  # of sizes that transforms ask for
MOST = 1_000_000  # any other number


class ImageFault(ValueError):
    """An image that an operation cannot take; the stream adds which image it was."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One step of a transform. Arguments are checked when it is made (ValueError)."""

    def __call__(self, image: Any, rng: np.random.Generator) -> Image:
        raise NotImplementedError

    def output_size(self, size: Size | None) -> Size | None:
        """Output (height, width) for an input of `size`; None where it depends on the image."""
        return size


def require_pixels(size: Size) -> None:
    """Raises ImageFault for an image (height, width) of more than MOST_PIXELS."""
    if size[0] * size[1] > MOST_PIXELS:
        raise ImageFault(f"an image of {size[0]}x{size[1]} is beyond {MOST_PIXELS:,} pixels")


@dataclasses.dataclass(frozen=True)
class Several(Op):
    """A last step, which makes several arrays of an image: a dict, whose keys batches get."""

    def __call__(self, image: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def output_size(self, size: Size | None) -> None:
        return None

    def specs(self, size: Size | None, channels: int | None) -> Specs:
        """What it makes of images of `size` and `channels`, as far as those are known."""
        raise NotImplementedError


def pair(value: Any, name: str) -> Size:
    """A size argument, one side of a square or (height, width), as a pair."""
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or not all(_whole(side) and side > 0 for side in sides):
        raise ValueError(
            f"{name} is a side in pixels or a pair (height, width), not {shown(value)}"
        )
    if max(sides) > MOST_SIDE:
        raise ValueError(f"{name} is at most {MOST_SIDE} pixels a side, not {shown(value)}")
    return tuple(sides)


def require_count(value: Any, name: str, least: int = 0, most: int = MOST) -> None:
    if not _whole(value) or value < least:
        raise ValueError(f"{name} is a whole number from {least} on, not {shown(value)}")
    if value > most:
        raise ValueError(f"{name} is at most {most}, not {shown(value)}")


def require_number(value: Any, name: str, low: float = 0.0, high: float = MOST) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        span = f"between {low:g} and {high:g}"
        raise ValueError(f"{name} is a number {span}, not {shown(value)}")


def require_range(value: Any, name: str, high: float = MOST) -> None:
    good = isinstance(value, tuple | list) and len(value) == 2
    good = good and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not good or not 1 / MOST <= value[0] <= value[1] <= high:
        limit = "" if high == MOST else f" <= {high:g}"
        raise ValueError(f"{name} is a pair 0 < low <= high{limit}, not {shown(value)}")


def require_choice(value: Any, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {shown(value)}")


def shown(value: Any) -> str:
    """`value` for an error text, cut to 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # whole numbers of more than 4,300 digits
        return "a number too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
