"""What every source offers: a sequence of labelled images with names for error texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypedDict

import numpy as np
from jaxtyping import Int, UInt8


class Example(TypedDict):
    """One labelled image: `image` as stored (bytes) or as pixels (H, W, C), `label` an index."""

    image: bytes | UInt8[np.ndarray, "h w c"]
    label: int


class Source(ABC):
    """Random access to the examples of one split of one data set.

    Sources hold paths and tables, never open files that cannot be pickled, and may be read from
    several threads at once.
    """

    class_names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Example:
        """Example `i`. Raises RunError, naming the file or row, where it cannot be read."""

    @abstractmethod
    def labels(self) -> Int[np.ndarray, " n"]:
        """Label of every example, without reading images."""

    @abstractmethod
    def name_of(self, i: int) -> str:
        """Where example `i` stands: a file, or a file and row. For error texts and predictions."""

    def row_of(self, i: int) -> int:
        """Row of example `i` in the whole split, before any `part` was taken."""
        return i

    @property
    def whole(self) -> Source:
        """The split before any `part` was taken: `whole.name_of(row)` names a row."""
        return self
