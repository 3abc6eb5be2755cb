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


def pair(value: Any, name: str) -> Size:
    """A size argument, one side of a square or (height, width), as a pair."""
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or not all(_whole(side) and side > 0 for side in sides):
        raise ValueError(f"{name} is a side in pixels or a pair (height, width), not {value!r}")
    return tuple(sides)


def require_count(value: Any, name: str, least: int = 0) -> None:
    if not _whole(value) or value < least:
        raise ValueError(f"{name} is a whole number from {least} on, not {value!r}")


def require_number(value: Any, name: str, low: float = 0.0, high: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        span = f"from {low:g} on" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"{name} is a number {span}, not {value!r}")


def require_range(value: Any, name: str, high: float = float("inf")) -> None:
    good = isinstance(value, tuple | list) and len(value) == 2
    good = good and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not good or not 0 < value[0] <= value[1] <= high:
        limit = "" if high == float("inf") else f" <= {high:g}"
        raise ValueError(f"{name} is a pair 0 < low <= high{limit}, not {value!r}")


def require_choice(value: Any, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
