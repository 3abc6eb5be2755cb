"""What every source offers: a sequence of examples with names for error texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Int, UInt8

from big_vit_lite.config import RunError


class BadExample(RunError):
    """One example that cannot be used while others can: training takes another in its place.

    Faults that concern a whole file of many examples are plain RunErrors and end the run.
    """


class Example(TypedDict, total=False):
    """One example: `image` as stored (bytes) or as pixels (H, W, C), and what was asked for."""

    image: bytes | UInt8[np.ndarray, "h w c"]
    label: int
    captions: tuple[str, ...]  # at least one


@dataclass(frozen=True)
class Columns:
    """Where a source finds what is wanted; None: the format's usual name.

    Attributes:
      image, label, caption: columns, features or file endings, as in the config.
      labels, captions: whether examples are to hold `label` and `captions`.
    """

    image: str | None = None
    label: str | None = None
    caption: str | None = None
    labels: bool = True
    captions: bool = False


class Source(ABC):
    """Random access to the examples of one split of one data set.

    Sources hold paths and tables, never open files that cannot be pickled, and may be read from
    several threads at once.
    """

    class_names: tuple[str, ...]  # empty where examples have no labels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Example:
        """Example `i`. Raises BadExample, naming the file or row, where it cannot be read."""

    @abstractmethod
    def labels(self) -> Int[np.ndarray, " n"]:
        """Label of every example, without reading images; zeros where there are none."""

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


def captions_of(value: object, name: str, what: str) -> tuple[str, ...]:
    """The captions of one example from what a file holds: a text, or a list of texts.

    Args:
      name: where the example stands, as `name_of` says.
      what: the column or field, for the error text.

    Raises:
      BadExample: there is none, one is empty, or something is no text.
    """
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    if value is None or not texts:
        raise BadExample(f"{name}: {what} holds no caption")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            shown = "an empty caption" if isinstance(text, str) else f"{text!r}, which is no text"
            raise BadExample(f"{name}: {what} holds {shown}")
    return texts
