"""The bytes that a prepared image is stored as: untouched, or decoded and written anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from big_vit_lite.config import InputError
from big_vit_lite.data.transforms import decode
from big_vit_lite.data.transforms.op import Image, ImageFault
from big_vit_lite.data.transforms.resize import ResizeSmall

ImageFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True)
class Reencode:
    """Bytes in, bytes out; images are written anew only where something is asked of them.

    Attributes:
      resize_small: longest that the shorter side may be, in pixels; longer ones are averaged
        down to it (area), shorter ones stay. None: all stay.
      exif: whether images are turned upright as their orientation tag says.
      format: of all images; None: as they are, JPEG for what was resized or turned, PNG for
        sources that hold pixels.
      quality: of JPEG and WebP, 1 to 100.
      unchecked: bytes that stay as they are are not decoded, so that broken ones are stored too.
    """

    resize_small: int | None = None
    exif: bool = False
    format: ImageFormat | None = None
    quality: int = 95
    unchecked: bool = False
    holds: ClassVar[str] = "image"

    def settings(self) -> dict[str, Any]:
        """All that the bytes depend on."""
        return dataclasses.asdict(self)

    def for_rows(self, rows: Sequence[int]) -> list[Callable[[Any], bytes]]:
        """What makes the bytes of each row's image."""
        return [self] * len(rows)

    def __call__(self, image: Any) -> bytes:
        """The bytes to store for `image`, bytes or pixels uint8 (H, W, C).

        Raises:
          ImageFault: it cannot be decoded or written.
          InputError: pixels of a number of channels that no image file holds.
        """
        if not isinstance(image, bytes):
            return self._write(self._shrunk(image), self.format or "png")
        if not image:
            raise ImageFault("the image is empty (zero bytes)")
        turn = decode.orientation(image) if self.exif else 1
        changes = turn != 1 or self.resize_small is not None or self.format is not None
        if self.unchecked and not changes:
            return image
        stored = decode.read(image)
        pixels = self._shrunk(decode.upright(stored, turn))
        if pixels.shape == stored.shape and turn == 1 and self.format is None:
            return image
        return self._write(pixels, self.format or "jpeg")

    def _shrunk(self, image: Image) -> Image:
        if self.resize_small is None or min(image.shape[:2]) <= self.resize_small:
            return image
        return ResizeSmall(self.resize_small)(image, None)

    def _write(self, image: Image, format: ImageFormat) -> bytes:
        channels = image.shape[-1]
        if channels not in (1, 3):
            raise InputError(
                f"images of {channels} channels cannot be stored as {format}; only those of 1 "
                "(grey) and 3 (RGB) can"
            )
        cv2 = decode.opencv()
        options = {
            "jpeg": [cv2.IMWRITE_JPEG_QUALITY, self.quality],
            "png": [],
            "webp": [cv2.IMWRITE_WEBP_QUALITY, self.quality],
        }[format]
        stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if channels == 3 else image
        try:
            done, data = cv2.imencode(f".{format}", stored, options)
        except cv2.error:
            done = False
        if not done:
            height, width = image.shape[:2]
            raise ImageFault(f"an image of {height}x{width} cannot be stored as {format}")
        return data.tobytes()
