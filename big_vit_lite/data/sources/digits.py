"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images that need no download.

They are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits"
(UCI, 1998), in the order of the writers, with 16 levels of grey.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from big_vit_lite.data.sources.base import Example, Source


@functools.cache
def _load() -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int[np.ndarray, " n"]]:
    rows = _rows()  # 64 levels of grey, and the digit
    images = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    images.flags.writeable = False
    return images, rows[:, -1].astype(np.int64)


def _rows() -> Float[np.ndarray, "n 65"]:
    """What `sklearn.datasets.load_digits` reads, without the second that its import takes."""
    package = importlib.util.find_spec("sklearn")
    for place in package.submodule_search_locations if package else ():
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.column_stack([found.data, found.target])


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
