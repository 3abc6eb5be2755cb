"""Images read and decoded by threads, ahead of the device, in batches of one shape."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.transforms import decode
from big_vit_lite.pretrained import Pretrained
from big_vit_lite.pretrained.images import Reader

THUMBNAIL = 160  # pixels of the longer side
AHEAD = 2  # batches that are decoded, or being decoded, beyond the one that is asked for


Pixels = UInt8[np.ndarray, "b h w c"] | dict[str, np.ndarray]
"""Images, or the patches, positions and mask that the transform patchify makes of them."""


class Batch(NamedTuple):
    """Some images one after the other.

    Attributes:
        rows: their numbers among all images, without those that cannot be read.
        pixels: of `size` images; behind those of `rows` zeros.
        thumbnails: JPEGs, one for each of `rows`; empty where none were asked for.
        faults: of those that cannot be read, (number, why).
        seen: images up to this number are in this batch or an earlier one.
    """

    rows: list[int]
    pixels: Pixels | None
    thumbnails: list[bytes]
    faults: list[tuple[int, str]]
    seen: int


class _Read(NamedTuple):
    pixels: Pixels | None
    thumbnail: bytes
    fault: str


class Images:
    """Image files as a model sees them.

    Args:
        model: its transform is taken.
        paths: of the files.
        threads: None: one a core.
        thumbnails: whether batches have them.
        skip: whether one that cannot be read is left out; otherwise batches end with it.

    Raises:
        InputError: the model does not say how images are transformed.
    """

    def __init__(
        self,
        model: Pretrained,
        paths: Sequence[str],
        threads: int | None = None,
        thumbnails: bool = False,
        skip: bool = False,
    ):
        if model.preprocessing is None:
            raise InputError(
                f"{model.source} does not say how images were preprocessed: give --transform (such "
                "as \"decode|resize(224, 'bicubic')\"), --mean and --std"
            )
        self.paths, self.skip = paths, skip
        self._threads, self._thumbnails = threads or os.cpu_count() or 1, thumbnails
        self._chain = model.preprocessing.transform
        self._reader = Reader(model.preprocessing, model.sections.model.channels)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of all images; None where that is for each image to say."""
        return self._reader.transform.output_size()

    def batches(self, size: int, start: int = 0) -> Iterator[Batch]:
        """All images from number `start` on; without `skip` up to the first that cannot be read,
        with which the last batch ends.

        Raises:
            InputError: the transform draws at random, or makes images of several sizes.
        """
        rows: list[int] = []
        thumbnails: list[bytes] = []
        faults: list[tuple[int, str]] = []
        pixels = None
        shape: Any = None
        for i, read in self._ahead(start, AHEAD * size):
            if read.pixels is None:
                faults.append((i, read.fault))
                if not self.skip:
                    break
                continue
            made = jax.tree.map(np.shape, read.pixels)
            shape = shape or made
            if pixels is None:
                pixels = jax.tree.map(lambda x: np.zeros((size, *x.shape), x.dtype), read.pixels)
            if made != shape:
                raise InputError(
                    f"{self._chain!r} makes {made} of {self.paths[i]} and {shape} of images before "
                    "it: give a --transform that ends in one size"
                )
            _put(read.pixels, pixels, len(rows))
            rows.append(i)
            thumbnails += [read.thumbnail] if self._thumbnails else []
            if len(rows) == size:
                yield Batch(rows, pixels, thumbnails, faults, i + 1)
                rows, pixels, thumbnails, faults = [], None, [], []
        if rows or faults:
            yield Batch(rows, pixels, thumbnails, faults, max([*rows, *(i for i, _ in faults)]) + 1)

    def _ahead(self, start: int, ahead: int) -> Iterator[tuple[int, _Read]]:
        """Each image in its order, some more being read meanwhile."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
        waiting: deque[tuple[int, Future]] = deque()
        try:
            for i in range(start, len(self.paths)):
                waiting.append((i, pool.submit(self._read, self.paths[i])))
                if len(waiting) > ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, path: str) -> _Read:
        try:
            content = files.read(path)
            made = thumbnail(content) if self._thumbnails else b""
            return _Read(self._reader.file(content), made, "")
        except InputError:
            raise
        except (OSError, ValueError) as error:
            return _Read(None, b"", files.why(error))
        except Exception as error:  # decoders fail in many ways on damaged files
            return _Read(None, b"", f"{type(error).__name__}: {error}")


def _put(image: Pixels, images: Pixels, row: int) -> None:
    for part, whole in zip(*map(jax.tree.leaves, (image, images)), strict=True):
        whole[row] = part


def images_of(model: Pretrained, paths: Sequence[str], given: dict[str, Any]) -> Images:
    """The images as options ask for them to be read."""
    return Images(
        model,
        paths,
        given.get("threads"),
        thumbnails="html" in given,
        skip=given.get("skip_unreadable", False),
    )


def thumbnail(content: bytes) -> bytes:
    """A small JPEG of an image file, as the model's transform reads it: not turned.

    Raises:
        ValueError: it cannot be decoded.
    """
    from PIL import Image

    image = Image.fromarray(decode.read(content))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    kept = io.BytesIO()
    image.save(kept, "JPEG", quality=80)
    return kept.getvalue()
