"""Rows of a source as arrays: read, decoded once, augmented by a generator of their own."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data.sources.base import Source
from big_vit_lite.data.transforms import Transform
from big_vit_lite.data.transforms.op import Image

DECODED_BYTES = 1 << 30  # data sets whose decoded images fit are decoded once, not once an epoch

# What a seed is used for: equal seeds give unrelated orders and augmentations.
SHUFFLE, AUGMENT = 1, 2


class Draws:
    """A numpy Philox generator at the stream of one (seed, row, epoch).

    One generator is put at a new counter for every example, which costs a tenth of making one.
    Streams of different rows and epochs lie 2**64 draws apart.
    """

    def __init__(self, seed: int):
        key = np.random.SeedSequence([seed, AUGMENT]).generate_state(2, np.uint64)
        self._bits = np.random.Philox(key=key)
        self._start = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, row: int, epoch: int) -> np.random.Generator:
        self._start["state"]["counter"][:] = (0, row, epoch, 0)
        self._bits.state = self._start
        return self._generator


class Examples:
    """Transformed examples of a source: a pure function of (seed, row, epoch), from any thread.

    Raises:
      InputError: images of different sizes leave the transform.
      RunError: an image cannot be read or transformed; names its file or row.
    """

    def __init__(
        self, source: Source, transform: Transform, seed: int, decoded_bytes: int = DECODED_BYTES
    ):
        self.source, self.transform, self._seed = source, transform, seed
        self._kept = _Kept(len(source), decoded_bytes) if transform.decodes else None
        self.shape = self._image(0, 0, Draws(seed))[0].shape

    def load(
        self, positions: Int[np.ndarray, " b"], epochs: Int[np.ndarray, " b"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (b, H, W, C) and labels int32 (b,); zeros where the position is -1."""
        images = np.zeros((len(positions), *self.shape), np.uint8)
        labels = np.zeros(len(positions), np.int32)
        draws = Draws(self._seed)
        for row, (i, epoch) in enumerate(zip(positions.tolist(), epochs.tolist(), strict=True)):
            if i < 0:
                continue
            image, labels[row] = self._image(i, epoch, draws)
            if image.shape != self.shape:
                raise InputError(
                    f"{self.source.name_of(i)}: the transform makes an image of shape "
                    f"{image.shape}, and {self.shape} of {self.source.name_of(0)}; end it with an "
                    f"operation that fixes the size, such as to_size({self.shape[0]})"
                )
            images[row] = image
        return images, labels

    def _image(self, i: int, epoch: int, draws: Draws) -> tuple[Image, int]:
        rng = draws.at(self.source.row_of(i), epoch)
        try:
            image, label, ops = self._stored(i, rng)
            for op in ops:
                image = op(image, rng)
        except (InputError, RunError):
            raise
        except Exception as error:
            raise RunError(
                f"{self.source.name_of(i)}: {error}; repair the image or take it out of the data"
            ) from error
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"{self.source.name_of(i)}: the image is stored as bytes; "
                "begin the transform with decode"
            )
        return image, label

    def _stored(self, i: int, rng: np.random.Generator) -> tuple:
        """Image and label as stored or, kept from earlier, decoded; and the operations left."""
        if self._kept is None:
            example = self.source[i]
            return example["image"], example["label"], self.transform.ops
        kept = self._kept.get(i)
        if kept is None:
            example = self.source[i]
            image = self.transform.ops[0](example["image"], rng)
            kept = image, example["label"]
            self._kept.put(i, kept)
        return *kept, self.transform.ops[1:]


class _Kept:
    """Decoded images in memory, all of them or none: a data set that will not fit is let go."""

    def __init__(self, n: int, limit: int):
        self._n, self._limit, self._bytes = n, limit, 0
        self._images: dict[int, tuple[Image, int]] | None = {}
        self._lock = threading.Lock()

    def get(self, i: int) -> tuple[Image, int] | None:
        images = self._images
        return None if images is None else images.get(i)

    def put(self, i: int, example: tuple[Image, int]) -> None:
        with self._lock:
            if self._images is None or i in self._images:
                return
            example[0].flags.writeable = False
            self._images[i] = example
            self._bytes += example[0].nbytes
            if self._bytes / len(self._images) * self._n > self._limit:
                self._images = None
