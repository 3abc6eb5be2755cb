"""Made-up images, a pure function of the row, with a pattern per class that can be learned."""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Int

from big_vit_lite.data.sources.base import Example, Source

CELLS = 4  # the pattern of a class is CELLS x CELLS flat squares
NOISE = 64  # grey levels either side


class Synthetic(Source):
    """`examples` images of `shape` (H, W, C); row i has label i % classes.

    Classes look the same in every split; the noise over them differs from split to split, so that
    validation on split "test" measures what was learned and not what was remembered.
    """

    def __init__(self, examples: int, classes: int, shape: tuple[int, int, int], split: str):
        self._examples, self._shape = examples, shape
        self._key = zlib.crc32(split.encode())
        self.class_names = tuple(f"class {i}" for i in range(classes))
        channels = shape[-1]
        draw = np.random.Generator(np.random.Philox(key=0))
        size = (classes, CELLS, CELLS, channels)
        self._patterns = draw.integers(NOISE, 256 - NOISE, size, dtype=np.int16)

    def __len__(self) -> int:
        return self._examples

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self._examples:
            raise IndexError(i)
        height, width, _ = self._shape
        label = i % len(self.class_names)
        rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
        pattern = self._patterns[label][rows][:, columns]
        draw = np.random.Generator(np.random.Philox(key=self._key, counter=[0, i, 0, 0]))
        noise = draw.integers(-NOISE, NOISE, self._shape, dtype=np.int16)
        return {"image": (pattern + noise).astype(np.uint8), "label": label}

    def labels(self) -> Int[np.ndarray, " n"]:
        return np.arange(self._examples, dtype=np.int64) % len(self.class_names)

    def name_of(self, i: int) -> str:
        return f"synthetic, row {i}"
