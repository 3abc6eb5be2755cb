"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images that need no download.

They are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits"
(UCI, 1998), in the order of the writers, with 16 levels of grey.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Int, UInt8

from big_vit_lite.data.sources.base import Example, Source


@functools.cache
def _load() -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int[np.ndarray, " n"]]:
    from sklearn.datasets import load_digits  # 1.5 s to import

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    images.flags.writeable = False
    return images, digits.target.astype(np.int64)


class Digits(Source):
    """Images (8, 8, 1), grey levels 0..16 spread over 0..255."""

    class_names = tuple("0123456789")

    def __len__(self) -> int:
        return len(_load()[1])

    def __getitem__(self, i: int) -> Example:
        images, labels = _load()
        return {"image": images[i], "label": int(labels[i])}

    def labels(self) -> Int[np.ndarray, " n"]:
        return _load()[1]

    def name_of(self, i: int) -> str:
        return f"digits, row {i}"
