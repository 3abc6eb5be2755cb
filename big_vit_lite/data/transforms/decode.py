"""Image bytes to pixels: OpenCV first (fastest, SIMD), Pillow for what OpenCV cannot read."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from big_vit_lite.data.transforms.op import Image, ImageFault, Op


@functools.cache
def opencv() -> Any:
    """The cv2 module, with its own threads off: the stream's threads work on whole images."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def by_fours(function: Callable[[Image], np.ndarray], image: Image) -> Image:
    """`function` of at most four channels at a time, which is what all of OpenCV takes."""
    channels = image.shape[-1]
    if channels <= 4:
        done = function(image)
        return done.reshape(*done.shape[:2], channels)
    groups = [np.ascontiguousarray(image[..., i : i + 4]) for i in range(0, channels, 4)]
    return np.dstack([function(group) for group in groups])


@dataclass(frozen=True)
class Decode(Op):
    """Bytes, or pixels of another channel count, to uint8 (H, W, channels).

    `channels` is 3 (RGB) or 1 (grey, by the luma weights .299 .587 .114). Alpha is dropped and
    only the first frame of an animation is read. EXIF orientation is ignored, as the published
    ImageNet pipelines do. Pixels with as many channels as asked for pass unchanged.
    """

    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is 3 (RGB) or 1 (grey), not {self.channels!r}")

    def __call__(self, image: Any, rng: np.random.Generator) -> Image:
        if isinstance(image, np.ndarray):
            return self._convert(image)
        if not image:
            raise ImageFault("the image is empty (zero bytes)")
        cv2 = opencv()
        kind = cv2.IMREAD_COLOR_RGB if self.channels == 3 else cv2.IMREAD_GRAYSCALE
        flags = kind | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            pixels = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
        except cv2.error:  # raised for sizes beyond OpenCV's limit
            pixels = None
        if pixels is None:
            pixels = self._pillow(image)
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def _pillow(self, data: bytes) -> np.ndarray:
        from PIL import Image as Pillow

        try:
            with Pillow.open(io.BytesIO(data)) as opened:
                return np.asarray(opened.convert("RGB" if self.channels == 3 else "L"))
        except Pillow.UnidentifiedImageError:
            raise ImageFault("the bytes are not an image of a known format") from None
        except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
            raise ImageFault(f"the image cannot be decoded ({error})") from error

    def _convert(self, image: Image) -> Image:
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ImageFault(f"pixels are uint8 (H, W, C), not {image.dtype} {image.shape}")
        if image.shape[-1] == self.channels:
            return image
        if image.shape[-1] == 1:
            return np.repeat(image, 3, axis=-1)
        if image.shape[-1] == 3:
            return opencv().cvtColor(image, opencv().COLOR_RGB2GRAY)[..., None]
        raise ImageFault(f"{image.shape[-1]} channels cannot become {self.channels}")
