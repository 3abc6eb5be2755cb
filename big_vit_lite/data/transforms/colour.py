"""Pixel-value operations with Pillow's meaning (ImageOps, ImageEnhance), for 1 or 3 channels.

Most are look-up tables. Tests hold each equal to Pillow's result.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from big_vit_lite.data.transforms.decode import opencv
from big_vit_lite.data.transforms.maps import from_pillow, to_pillow
from big_vit_lite.data.transforms.op import Image

LEVELS = np.arange(256)


def look_up(image: Image, table: np.ndarray) -> Image:
    """Every value through `table`: (256,), or (256, C) with one column a channel."""
    cv2 = opencv()
    table = np.ascontiguousarray(table, np.uint8)
    return cv2.LUT(image, table.reshape(1, 256, -1)).reshape(image.shape)


def _blend(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    """first + factor (second - first), cut to 0..255; fractions of a level are dropped."""
    first = first.astype(np.float32)
    mixed = first + np.float32(factor) * (second.astype(np.float32) - first)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def grey(image: Image) -> UInt8[np.ndarray, "h w"]:
    """Luma of ITU-R 601, as Pillow's convert("L")."""
    return image[..., 0] if image.shape[-1] == 1 else np.asarray(to_pillow(image).convert("L"))


def grayscale(image: Image) -> Image:
    """The luma in every channel."""
    if image.shape[-1] == 1:
        return image
    cv2 = opencv()
    return cv2.cvtColor(grey(image), cv2.COLOR_GRAY2RGB)


def autocontrast(image: Image) -> Image:
    """Each channel stretched over 0..255; a flat channel stays."""
    tables = []
    for plane in np.ascontiguousarray(np.moveaxis(image, -1, 0)):  # numpy is slow across channels
        low, high = int(plane.min()), int(plane.max())
        scale = 255.0 / max(high - low, 1)
        stretched = np.clip(np.trunc(LEVELS * scale - low * scale), 0, 255)
        tables.append(stretched if high > low else LEVELS)
    return look_up(image, np.stack(tables, axis=-1))


def equalize(image: Image) -> Image:
    """Each channel's histogram made even; a channel of one value stays."""
    tables = []
    for counts in np.reshape(to_pillow(image).histogram(), (-1, 256)):
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        if step == 0:
            tables.append(LEVELS)
            continue
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])
        tables.append(np.clip((before + step // 2) // step, 0, 255))
    return look_up(image, np.stack(tables, axis=-1))


def invert(image: Image) -> Image:
    """255 - value."""
    return 255 - image


def hue(image: Image, turn: float) -> Image:
    """The hue turned by `turn` of a full circle, red towards green; grey images stay.

    In Pillow's HSV of 256 hues, by whole steps towards none, as torchvision does.
    """
    steps = int(turn * 255)
    if image.shape[-1] == 1:
        return image
    from PIL import Image as Pillow

    hsv = np.array(Pillow.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(steps % 256)
    return np.asarray(Pillow.fromarray(hsv, "HSV").convert("RGB"))


def gaussian_blur(image: Image, sigma: float) -> Image:
    """Pillow's GaussianBlur: three box blurs whose variances add up to `sigma`² (pixels)."""
    from PIL import ImageFilter

    return from_pillow(to_pillow(image).filter(ImageFilter.GaussianBlur(sigma)))


def posterize(image: Image, bits: int) -> Image:
    """Only the `bits` highest bits of each value stay (0: all black)."""
    return look_up(image, LEVELS & (0xFF & ~(0xFF >> bits)))


def solarize(image: Image, threshold: int) -> Image:
    """Values from `threshold` on inverted."""
    return look_up(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def solarize_add(image: Image, addition: int) -> Image:
    """`addition` more for values below 128."""
    return look_up(image, np.where(LEVELS < 128, np.clip(LEVELS + addition, 0, 255), LEVELS))


def color(image: Image, factor: float) -> Image:
    """Between the grey image (0) and the image (1), and beyond. Grey images stay."""
    if image.shape[-1] == 1:
        return image
    from PIL import ImageEnhance

    return from_pillow(ImageEnhance.Color(to_pillow(image)).enhance(factor))


def contrast(image: Image, factor: float) -> Image:
    """Between the image's mean grey (0) and the image (1), and beyond."""
    mean = int(grey(image).mean() + 0.5)
    return look_up(image, _blend(np.full(256, mean), LEVELS, factor))


def brightness(image: Image, factor: float) -> Image:
    """Between black (0) and the image (1), and beyond."""
    return look_up(image, _blend(np.zeros(256), LEVELS, factor))


def sharpness(image: Image, factor: float) -> Image:
    """Between a smoothed image (0) and the image (1), and beyond; the outer pixels stay."""
    if min(image.shape[:2]) < 3:
        return image
    from PIL import Image as Pillow

    # A thirteenth never lies half way between two levels, so that rounding is safe in float32.
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = opencv().filter2D(image, -1, kernel).reshape(image.shape)
    edge = np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]
    for side in edge:
        smooth[side] = image[side]
    return from_pillow(Pillow.blend(to_pillow(smooth), to_pillow(image), factor))
