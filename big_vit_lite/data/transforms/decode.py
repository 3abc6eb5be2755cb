"""Image bytes to pixels: OpenCV first (fastest, SIMD), Pillow for what OpenCV reads differently.

Both give the same pixels, so that it never shows which of them read a file:

| kind | rule |
|---|---|
| JPEG | RGB or grey by OpenCV; CMYK and YCCK by Pillow, Adobe's inversion undone, without profile |
| 16 bits a channel | the high byte of each value |
| palette, alpha, 1 bit | colours as stored, transparency dropped: hidden colours show |
| GIF, animated WebP and PNG | the first frame |
| EXIF or XMP orientation | ignored, as the published ImageNet pipelines do; see `exif` |
| ICC profiles, gamma | ignored |
| 32 bits a channel | refused: no known range |
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from big_vit_lite.data.transforms import headers
from big_vit_lite.data.transforms.op import Image, ImageFault, Op, require_pixels

# Formats that Pillow may try. Others that it knows start programs (EPS) or are not for photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_ORIENTATION = 0x0112  # EXIF tag


@functools.cache
def opencv() -> Any:
    """The cv2 module, with its own threads off: the stream's threads work on whole images."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # our own errors name the bad image
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

    `channels` is 3 (RGB) or 1 (grey: .299 R + .587 G + .114 B of the RGB pixels, rounded as
    Pillow's convert("L")). With `exif` the image is turned upright as its orientation tag says.
    Pixels with as many channels as asked for pass unchanged. `approximate` lets the operation after
    it have a large JPEG decoded at a fraction of its size: see cropped.py.
    """

    channels: int = 3
    exif: bool = False
    approximate: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or not isinstance(self.channels, int):
            raise ValueError(f"channels is 3 (RGB) or 1 (grey), not {self.channels!r}")
        if not isinstance(self.exif, bool):
            raise ValueError(f"exif is True or False, not {self.exif!r}")
        if not isinstance(self.approximate, bool):
            raise ValueError(f"approximate is True or False, not {self.approximate!r}")
        if self.exif and self.approximate:
            raise ValueError("exif and approximate do not go together")

    def __call__(self, image: Any, rng: np.random.Generator) -> Image:
        if isinstance(image, np.ndarray):
            return self._convert(image)
        pixels = read(image)
        if self.exif:
            pixels = upright(pixels, orientation(image))
        return self._convert(pixels)

    def _convert(self, image: Image) -> Image:
        if image.dtype != np.uint8 or image.ndim != 3 or not image.size:
            raise ImageFault(f"pixels are uint8 (H, W, C), not {image.dtype} {image.shape}")
        if image.shape[-1] == self.channels:
            return image
        if image.shape[-1] == 1:
            return np.repeat(image, 3, axis=-1)
        if image.shape[-1] == 3:
            from PIL import Image as Pillow

            return np.asarray(Pillow.fromarray(np.ascontiguousarray(image)).convert("L"))[..., None]
        raise ImageFault(f"{image.shape[-1]} channels cannot become {self.channels}")


def read(data: bytes) -> Image:
    """RGB pixels (H, W, 3) of an image file, not turned.

    Raises:
      ImageFault: no image, a truncated or damaged one, or one of too many pixels. A file whose end
        is missing is never read as a picture; one that was damaged within and still ends as it
        should may be, by either library.
    """
    if not data:
        raise ImageFault("the image is empty (zero bytes)")
    if data.startswith(headers.JPEG) and not headers.jpeg_ends(data):
        raise ImageFault("the image is truncated: a JPEG without its end marker")
    size = headers.common_size(data)
    if size is not None:
        require_pixels(size)
        pixels = _opencv(data)
        if pixels is not None:
            return pixels
    return _pillow(data)


def _opencv(data: bytes) -> Image | None:
    """None where OpenCV cannot read it: Pillow may, or says why not."""
    cv2 = opencv()
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # raised for sides beyond OpenCV's limit
        return None


def _pillow(data: bytes) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=_formats()) as opened:
            require_pixels(opened.size[::-1])
            if opened.format == "TIFF":  # Pillow would turn it; what is not there it cannot follow
                opened.getexif().pop(_ORIENTATION, None)
            opened.load()
            return rgb(opened)
    except ImageFault:
        raise
    except Pillow.UnidentifiedImageError:
        raise ImageFault(
            f"the bytes are not an image of a known format ({', '.join(FORMATS)}) or are damaged "
            f"at the beginning: {data[:16]!r}"
        ) from None
    except Exception as error:  # of any type: Pillow's readers fail in many ways on damaged files
        reason = str(error) or type(error).__name__
        raise ImageFault(f"the image cannot be decoded ({reason})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image as Pillow

    Pillow.init()
    return tuple(name for name in FORMATS if name in Pillow.OPEN)


def rgb(opened: Any) -> Image:
    """RGB pixels of a Pillow image by the rules of this file's table; it stays as it is.

    Raises:
      ImageFault: its pixels are of 32 bits.
    """
    mode = opened.mode
    if mode.startswith("I;16") or (mode == "I" and opened.format in ("PNG", "PPM")):
        # 16-bit grey. Pillow's own conversion cuts values off at 255.
        high = (np.asarray(opened) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=-1)
    if mode in ("I", "F"):
        raise ImageFault("pixels of 32 bits have no known range; store the image with 8 or 16 bits")
    if "transparency" in opened.info:
        opened = opened.copy()
        del opened.info["transparency"]
    return np.asarray(opened.convert("RGB"))


def orientation(data: bytes) -> int:
    """The EXIF (or else XMP) orientation, 1 to 8; 1 where there is none that can be read."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=_formats()) as opened:
            tag = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata of an image that was read: as if it had none
        return 1
    return tag if tag in range(1, 9) else 1


def upright(image: Image, orientation: int) -> Image:
    """`image` as seen by the photographer, from the EXIF orientation 1 to 8 of its file."""
    turned = {
        1: lambda: image,
        2: lambda: image[:, ::-1],
        3: lambda: image[::-1, ::-1],
        4: lambda: image[::-1],
        5: lambda: image.swapaxes(0, 1),
        6: lambda: np.rot90(image, -1),
        7: lambda: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(image),
    }[orientation]()
    return np.ascontiguousarray(turned)
