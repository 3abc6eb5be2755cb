"""Decoding no more of a JPEG than the crop or the change of size after it needs.

Two shortcuts, each for `decode` and the operation after it:

- The box of random_resized_crop alone is decoded, where nvImageCodec is installed (extra `crop`;
  libjpeg-turbo's cropped decoding, on the processor): 1.3 times the speed. The pixels are those of
  the whole image, bit for bit, so that batches do not tell whether it is installed.
- `decode(approximate=True)`: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size by libjpeg's scaled
  DCT, when what is needed is at least so many times the target in both directions. Boxes and other
  draws are those of the exact path, places keep their fractions of a pixel, and pixels differ:
  tests/data/test_cropped.py has the bounds.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from big_vit_lite.data.transforms import headers
from big_vit_lite.data.transforms.crops import RandomResizedCrop
from big_vit_lite.data.transforms.decode import Decode, opencv
from big_vit_lite.data.transforms.op import MOST_PIXELS, Image, Op, Size, require_pixels
from big_vit_lite.data.transforms.resize import Resize, ResizeSmall, resize

Box = tuple[int, int, int, int]  # top, left, height, width
SCALABLE = (RandomResizedCrop, Resize, ResizeSmall)  # what may follow decode(approximate=True)
PROGRESSIVE = 0xC2  # frame marker
LEAST_SIDE = 64
"""Narrower boxes are cut from the whole image: libjpeg spreads colour in another way where its
window is one or two samples wide, and there is little to gain."""


def join(ops: tuple[Op, ...]) -> CroppedDecode | None:
    """The first two of `ops` as one, where a shortcut may apply."""
    if len(ops) < 2 or not isinstance(ops[0], Decode) or ops[0].exif:
        return None
    decode, op = ops[:2]
    scalable = decode.approximate and isinstance(op, SCALABLE)
    crops = isinstance(op, RandomResizedCrop)
    return CroppedDecode(decode, op) if scalable or (crops and _library()) else None


def faults(ops: tuple[Op, ...]) -> list[str]:
    """What is wrong with decode(approximate=True) and the operation after it."""
    if not (ops and isinstance(ops[0], Decode) and ops[0].approximate):
        return []
    if len(ops) > 1 and isinstance(ops[1], SCALABLE):
        return []
    return ["decode(approximate=True) comes before random_resized_crop, resize_small or resize"]


@dataclass(frozen=True)
class CroppedDecode(Op):
    """`op` of the image that `decode` reads, by a shortcut where the image allows it."""

    decode: Decode
    op: RandomResizedCrop | Resize | ResizeSmall

    def __call__(self, image: bytes, rng: np.random.Generator) -> Image:
        size = _size(image)
        if size is None:
            return self.op(self.decode(image, rng), rng)
        op, target = self.op, self.op.output_size(size)
        require_pixels(target)
        crops = isinstance(op, RandomResizedCrop)
        box = op.box(*size, rng) if crops else (0, 0, *size)
        scales = self.decode.approximate and max(size) < 1 << 15  # a limit of OpenCV's warpAffine
        scale = _scale(box, target) if scales else 1
        if scale > 1 and (pixels := _reduced(image, scale)) is not None:
            pixels = _resampled(pixels, scale, box, target, op.method, op.antialias)
            return self.decode(pixels, rng)
        if crops and (pixels := decode_box(image, box)) is not None:
            pixels = self.decode(pixels, rng)
        else:
            top, left, height, width = box
            pixels = self.decode(image, rng)[top : top + height, left : left + width]
        return resize(pixels, target, op.method, op.antialias)


def _size(data: Any) -> Size | None:
    """(height, width) of a whole JPEG of an ordinary kind; None for all else."""
    if not isinstance(data, bytes) or not data.startswith(headers.JPEG):
        return None
    size = headers.common_size(data)
    fits = size is not None and 0 < size[0] * size[1] <= MOST_PIXELS
    return size if fits and headers.jpeg_ends(data) else None


def decode_box(data: bytes, box: Box) -> Image | None:
    """RGB pixels (height, width, 3) of a box of a JPEG, equal to those of the decoded whole.

    None where the library is not installed or cannot read the file, and where it is not asked: for
    narrow boxes, and for progressive files, of which libjpeg smooths a damaged whole otherwise than
    a part.
    """
    nvimgcodec = _library()
    top, left, height, width = box
    frame = headers.jpeg_frame(data)
    if nvimgcodec is None or frame is None or min(height, width) < LEAST_SIDE:
        return None
    if data[frame.at + 1] == PROGRESSIVE:
        return None
    decoder = _thread_decoder()
    try:
        region = nvimgcodec.Region(top, left, top + height, left + width)
        stream = nvimgcodec.CodeStream(data).get_sub_code_stream(region=region)
        decoded = decoder.decode(stream, params=decoder.rgb)
    except RuntimeError:
        return None
    return None if decoded is None else np.asarray(decoded)


@functools.cache
def _library() -> Any | None:
    """nvidia.nvimgcodec with its libjpeg-turbo reader alone, or None where it is not installed."""
    with _LOADING:
        try:
            home = importlib.util.find_spec("nvidia.nvimgcodec")
        except ModuleNotFoundError:  # no package nvidia either
            return None
        if home is None or sys.platform != "linux":
            return None
        # Its readers for graphics cards would complain on stderr where there is none. Damaged
        # images are left to the ordinary decoder, whose errors name them.
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
        before = os.environ.get("NVIMGCODEC_EXTENSIONS_PATH")
        with tempfile.TemporaryDirectory() as folder:
            for path in (Path(home.origin).parent / "extensions").glob("libjpeg_turbo_ext*"):
                (Path(folder) / path.name).symlink_to(path)
            os.environ["NVIMGCODEC_EXTENSIONS_PATH"] = folder
            try:
                from nvidia import nvimgcodec
            except ImportError:
                return None
            finally:
                del os.environ["NVIMGCODEC_EXTENSIONS_PATH"]
                if before is not None:
                    os.environ["NVIMGCODEC_EXTENSIONS_PATH"] = before
        return nvimgcodec


_LOADING = threading.Lock()


class _ThreadDecoder(threading.local):
    """A decoder of the thread that asks, working on that thread."""

    def __init__(self) -> None:
        nvimgcodec = _library()
        self.rgb = nvimgcodec.DecodeParams(
            color_spec=nvimgcodec.ColorSpec.SRGB, apply_exif_orientation=False
        )
        self._decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],
            options=":fancy_upsampling=1",  # as OpenCV and Pillow do
        )
        self.decode = self._decoder.decode


@functools.cache
def _thread_decoder() -> _ThreadDecoder:
    return _ThreadDecoder()


def _scale(box: Box, target: Size) -> int:
    """The largest of 8, 4, 2 by which the box may shrink and still be as large as the target."""
    fits = (s for s in (8, 4, 2) if box[2] >= s * target[0] and box[3] >= s * target[1])
    return next(fits, 1)


def _reduced(data: bytes, scale: int) -> Image | None:
    """RGB pixels of a JPEG at 1/`scale` of its size, sides rounded up; None if unreadable."""
    cv2 = opencv()
    # The flags named GRAYSCALE set the scale alone; colour is another bit.
    flag = {
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }[scale]
    flags = flag | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _resampled(
    image: Image, scale: int, box: Box, target: Size, method: str, antialias: bool
) -> Image:
    """`box`, in pixels of the whole image, of its copy at 1/`scale`, at the size `target`.

    Pillow's HAMMING is the nearest to `area` that takes boxes with fractions of a pixel.
    """
    top, left, height, width = (side / scale for side in box)
    if method == "area" or (antialias and method != "nearest"):
        from PIL import Image as Pillow

        edges = left, top, min(left + width, image.shape[1]), min(top + height, image.shape[0])
        resample = Pillow.Resampling["HAMMING" if method == "area" else method.upper()]
        return np.asarray(Pillow.fromarray(image).resize(target[::-1], resample, box=edges))
    cv2 = opencv()
    flag = {
        "nearest": cv2.INTER_NEAREST,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
    }[method]
    down, right = height / target[0], width / target[1]  # source pixels a target pixel
    # From target to source, both by their centres.
    matrix = np.array([[right, 0, left + right / 2 - 0.5], [0, down, top + down / 2 - 0.5]])
    flags = flag | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, target[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
