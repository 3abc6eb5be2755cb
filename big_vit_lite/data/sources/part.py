"""A part of a source: some of its rows, under the names and numbers they have in the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from big_vit_lite.data.sources.base import Example, Source


class Part(Source):
    """Some rows of a source, in the order given."""

    def __init__(self, source: Source, rows: Sequence[int]):
        self._source, self._rows = source, rows
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Example:
        return self._source[self.row_of(i)]

    def labels(self) -> Int[np.ndarray, " n"]:
        return self._source.labels()[np.asarray(self._rows)]

    def name_of(self, i: int) -> str:
        return self._source.name_of(self.row_of(i))

    def row_of(self, i: int) -> int:
        return int(self._rows[i])

    @property
    def whole(self) -> Source:
        return self._source
