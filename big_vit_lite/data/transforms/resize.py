"""Changes of size: resize, resize_small.

Two families of filters, which differ visibly when shrinking. With antialias the filter is as wide
as the shrinking asks for, computed by Pillow bit for bit (CLIP, SigLIP, timm evaluation). Without,
OpenCV reads the nearest source pixels only, as TensorFlow's resize of the published ViT training
recipes does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from big_vit_lite.data.transforms.decode import by_fours, opencv
from big_vit_lite.data.transforms.op import (
    MOST_SIDE,
    Image,
    Op,
    Size,
    pair,
    require_choice,
    require_count,
    require_pixels,
)

RULES = ("tensorflow", "torchvision")  # whose arithmetic, where the two differ by a pixel
METHODS = ("nearest", "bilinear", "bicubic", "lanczos", "area")


def resize(image: Image, size: Size, method: str = "bilinear", antialias: bool = True) -> Image:
    """`image` at (height, width).

    `area` averages the source pixels under each target pixel; enlarging, it is bilinear.
    `bicubic` is the kernel a = -0.5 with antialias (Pillow) and a = -0.75 without (OpenCV).
    """
    if image.shape[:2] == size:
        return image
    if antialias and method in ("bilinear", "bicubic", "lanczos"):
        return _pillow_resize(image, size, method)
    cv2 = opencv()
    flag = {
        "nearest": cv2.INTER_NEAREST_EXACT,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
        "area": cv2.INTER_AREA if _shrinks(image, size) else cv2.INTER_LINEAR,
    }[method]
    return by_fours(lambda part: cv2.resize(part, size[::-1], interpolation=flag), image)


def _shrinks(image: Image, size: Size) -> bool:
    return size[0] <= image.shape[0] and size[1] <= image.shape[1]


def _pillow_resize(image: Image, size: Size, method: str) -> Image:
    from PIL import Image as Pillow

    resample = {
        "bilinear": Pillow.Resampling.BILINEAR,
        "bicubic": Pillow.Resampling.BICUBIC,
        "lanczos": Pillow.Resampling.LANCZOS,
    }[method]
    if image.shape[-1] == 3:
        return np.asarray(Pillow.fromarray(image).resize(size[::-1], resample))
    planes = [
        np.asarray(Pillow.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], resample))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)


def check_filter(method: str, antialias: bool) -> None:
    require_choice(method, "method", METHODS)
    if not isinstance(antialias, bool):
        raise ValueError(f"antialias is True or False, not {antialias!r}")


@dataclass(frozen=True)
class Resize(Op):
    """To `size` exactly, the aspect ratio changing if need be. Also written to_size."""

    size: int | Size
    method: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        pair(self.size, "size")
        check_filter(self.method, self.antialias)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        return resize(image, self.output_size(None), self.method, self.antialias)

    def output_size(self, size: Size | None) -> Size:
        return pair(self.size, "size")


@dataclass(frozen=True)
class ResizeSmall(Op):
    """The shorter side to `size` pixels, the longer in proportion.

    The longer side is rounded by rule "tensorflow", as big_vision does, and cut off by rule
    "torchvision", as CLIP and timm do. Values are rounded to grey levels, where big_vision's cast
    to uint8 cuts them off.

    Raises:
      ImageFault: of a very long image, whose result would be too large for memory.
    """

    size: int
    method: str = "area"
    antialias: bool = True
    rule: str = "tensorflow"

    def __post_init__(self) -> None:
        require_count(self.size, "size", 1, MOST_SIDE)
        check_filter(self.method, self.antialias)
        require_choice(self.rule, "rule", RULES)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        size = self.output_size(image.shape[:2])
        require_pixels(size)
        return resize(image, size, self.method, self.antialias)

    def output_size(self, size: Size | None) -> Size | None:
        if size is None:
            return None
        if self.rule == "torchvision":
            long = int(self.size * max(size) / min(size))
            return (self.size, long) if size[0] <= size[1] else (long, self.size)
        ratio = self.size / min(size)
        return round(size[0] * ratio), round(size[1] * ratio)
