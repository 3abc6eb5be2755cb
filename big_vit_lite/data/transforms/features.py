"""Features that were computed before, in place of an image: what LiT's locked tower makes.

Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning", section 3: the features
of a locked tower never change, so that they can be computed once.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from big_vit_lite.config import InputError
from big_vit_lite.data.transforms.op import ImageFault, Several, Size, Specs, require_count

MAGIC = b"\x93NUMPY"
_TYPES = (np.float16, np.float32)


@dataclass(frozen=True)
class Features(Several):
    """A vector of `n` numbers from a .npy file of float16 or float32, as float32.

    It stands alone. Batches then hold "features", float32 (n,), and no "image". `image_key` names
    where the files lie: npy in tar files (KEY.npy), a binary column in Parquet, a field of bytes in
    ArrayRecord, the column of paths in a table.
    """

    n: int

    def __post_init__(self) -> None:
        require_count(self.n, "n", 1)

    def __call__(self, image: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if not isinstance(image, bytes):
            raise InputError(
                f"features({self.n}) reads .npy files, and this source holds pixels; begin the "
                "transform with an operation on images, or name a source of features"
            )
        return {"features": read(image, self.n)}

    def specs(self, size: Size | None, channels: int | None) -> Specs:
        return {"features": ((self.n,), np.float32)}


def read(data: bytes, n: int) -> Float32[np.ndarray, " n"]:
    """The numbers of a .npy file.

    Raises:
      ImageFault: it is none, is cut short, holds another shape or type, or a number that is not
        finite.
    """
    start = _start(data)
    shape, dtype = _header(data[:start])
    if shape != (n,) or dtype.newbyteorder("=") not in _TYPES:
        sides = " x ".join(map(str, shape)) or "one"
        raise ImageFault(
            f"the .npy file holds {sides} {dtype.name}, and features({n}) wants {n} float16 or "
            "float32"
        )
    wanted = n * dtype.itemsize
    if len(data) - start != wanted:
        raise ImageFault(
            f"the .npy file is damaged: {wanted} bytes of numbers should follow its header, and "
            f"{len(data) - start} do"
        )
    features = np.frombuffer(data, dtype, offset=start).astype(np.float32)
    if not np.isfinite(features).all():
        where = int(np.argmin(np.isfinite(features)))
        raise ImageFault(f"feature {where} is {features[where]}, which is not finite")
    return features


def _start(data: bytes) -> int:
    """Where the numbers begin: numpy.lib.format, versions 1 and 2."""
    if not data.startswith(MAGIC) or len(data) < 12:
        raise ImageFault(f"the bytes are no .npy file: {data[:16]!r}")
    if data[6] == 1:
        return 10 + int.from_bytes(data[8:10], "little")
    return 12 + int.from_bytes(data[8:12], "little")


@functools.lru_cache(64)
def _header(head: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type; those of one data set are alike, and reading one takes 50 µs."""
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} is not for plain numbers")
    except Exception as error:  # of several types, of damaged text
        raise ImageFault(f"the header of the .npy file cannot be read ({error})") from None
    return shape, dtype
