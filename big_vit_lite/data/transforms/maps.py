"""Affine maps and turns computed by Pillow, so equal to it bit for bit; for 1 or 3 channels.

Published augmentation policies were trained with Pillow's maps, whose nearest neighbour, bilinear
and bicubic kernels differ from OpenCV's by whole grey levels. x and y are measured in pixels from
the outer corner of the first pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from big_vit_lite.data.transforms.op import (
    Image,
    ImageFault,
    require_choice,
    require_number,
    shown,
)

METHODS = ("nearest", "bilinear", "bicubic")
FILL = 128
"""The grey that AutoAugment's and EfficientNet's code put where the image ends."""
IMAGENET_FILL = (124, 116, 104)
"""ImageNet's mean colour times 255, rounded: timm's and DeiT's fill."""

Fill = int | tuple[int, int, int]


def require_channels(image: Image, name: str) -> None:
    """Raises ImageFault unless `image` is grey or RGB."""
    if image.shape[-1] not in (1, 3):
        raise ImageFault(f"{name} takes 1 or 3 channels, not {image.shape[-1]}")


def check_fill(fill: Any) -> None:
    values = fill if isinstance(fill, tuple | list) else (fill,)
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if len(values) not in (1, 3) or not whole or not all(0 <= v <= 255 for v in values):
        raise ValueError(f"fill is a grey level from 0 to 255 or three of them, not {shown(fill)}")


def check_method(method: Any) -> None:
    require_choice(method, "method", METHODS)


def check_share(p: Any, name: str = "p") -> None:
    require_number(p, name, 0, 1)


def luma(colour: tuple[float, float, float]) -> float:
    """Grey value of a colour, by ITU-R 601."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def affine(
    image: Image, matrix: tuple[float, ...], fill: Fill = FILL, method: str = "nearest"
) -> Image:
    """Pillow's affine map: `matrix` (a, b, c, d, e, f) leads from new to old (x, y)."""
    from PIL import Image as Pillow

    size, kind, colour = image.shape[1::-1], Pillow.Transform.AFFINE, _colour(image, fill)
    turned = to_pillow(image).transform(size, kind, matrix, _filter(method), fillcolor=colour)
    return from_pillow(turned)


def rotate(image: Image, degrees: float, fill: Fill = FILL, method: str = "nearest") -> Image:
    """Turned counter-clockwise about the centre."""
    turned = to_pillow(image).rotate(degrees, _filter(method), fillcolor=_colour(image, fill))
    return from_pillow(turned)


def shear_x(image: Image, level: float, fill: Fill = FILL, method: str = "nearest") -> Image:
    """Row y read `level` y further right."""
    return affine(image, (1.0, level, 0.0, 0.0, 1.0, 0.0), fill, method)


def shear_y(image: Image, level: float, fill: Fill = FILL, method: str = "nearest") -> Image:
    """Column x read `level` x further down."""
    return affine(image, (1.0, 0.0, 0.0, level, 1.0, 0.0), fill, method)


def translate_x(image: Image, pixels: float, fill: Fill = FILL, method: str = "nearest") -> Image:
    """Read `pixels` further right: the image moves left."""
    return affine(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0), fill, method)


def translate_y(image: Image, pixels: float, fill: Fill = FILL, method: str = "nearest") -> Image:
    """Read `pixels` further down: the image moves up."""
    return affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels), fill, method)


def to_pillow(image: Image) -> Any:
    """A grey or RGB image as Pillow holds it."""
    from PIL import Image as Pillow

    return Pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pillow(pillow: Any) -> Image:
    """Its pixels, (H, W, 1) or (H, W, 3)."""
    pixels = np.asarray(pillow)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _filter(method: str) -> Any:
    from PIL import Image as Pillow

    return getattr(Pillow.Resampling, method.upper())


def _colour(image: Image, fill: Fill) -> Fill:
    """`fill` in the image's channels; a colour's luma where the image is grey."""
    values = tuple(fill) if isinstance(fill, tuple | list) else (fill,)
    if image.shape[-1] == 1:
        return values[0] if len(values) == 1 else round(luma(values))
    return values if len(values) == 3 else values * 3
