"""Pairs of handwritten digits with captions such as "a three left of a seven": no download.

Two of scikit-learn's digits on one canvas, and what is said of them: 10 x 10 digits x 2 relations
are 200 captions, which are the classes, too. Caption 100 r + 10 a + b says that digit a stands
left of (r = 0) or above (r = 1) digit b.

A fifth of the digit images is held out, and of the captions a fifth:

| split | digit images | captions |
|---|---|---|
| train | those that train | 160 |
| val | held out | all 200 |
| unseen | held out | the 40 others |

To choose settings without a look at either, the same once more inside of `train`, whose 160
captions are then all there are:

| split | digit images | captions |
|---|---|---|
| tune_train | part of those that train | 120 |
| tune | the rest of them | all 160 |
| tune_unseen | the rest of them | the 40 others |

In all splits each digit stands equally often at each place of each relation.
"""

from __future__ import annotations

import difflib
import functools
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError
from big_vit_lite.data import parts
from big_vit_lite.data.sources.base import Example, Source
from big_vit_lite.data.sources.digits import Digits

CANVAS = 16  # pixels a side
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATIONS = ("left of", "above")
# Corners of the digits' 8x8 pixels. Along the relation they are 6 to 8 pixels apart, so that boxes
# may overlap by two; across it at most 2, so that no pair could be called the other relation.
FIRST, SECOND, ACROSS = (0, 1), (7, 8), (3, 5)

_FOLDS = 5  # of the captions, 40 each; the last is held out, the one before it for tuning
_TRAIN, _HELD = "rest(20%, seed=0)", "held_out(20%, seed=0)"


class _Split(NamedTuple):
    """Which digit images, as a part of source "digits"; which folds of captions; which of them are
    classes."""

    digits: str
    captions: tuple[int, ...]
    classes: tuple[int, ...]


SPLITS = {
    "train": _Split(_TRAIN, (0, 1, 2, 3), (0, 1, 2, 3, 4)),
    "val": _Split(_HELD, (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
    "unseen": _Split(_HELD, (4,), (0, 1, 2, 3, 4)),
    "tune_train": _Split(f"{_TRAIN}|rest(20%, seed=1)", (0, 1, 2), (0, 1, 2, 3)),
    "tune": _Split(f"{_TRAIN}|held_out(20%, seed=1)", (0, 1, 2, 3), (0, 1, 2, 3)),
    "tune_unseen": _Split(f"{_TRAIN}|held_out(20%, seed=1)", (3,), (0, 1, 2, 3)),
}


class Pair(NamedTuple):
    """Two digits of a picture, the first being the one named first.

    Attributes:
      caption: number among all 200.
      rows: of the digits in source "digits".
      corners: (y, x) of the upper left pixel of each.
    """

    caption: int
    rows: tuple[int, int]
    corners: tuple[tuple[int, int], tuple[int, int]]


class DigitPairs(Source):
    """`examples` images (16, 16, 1) with label and caption; row i is a pure function of i.

    Row i has caption i modulo their number: in whole multiples of it they are equally frequent.
    Which digit images, and where they stand, is drawn for each row; where they overlap the
    brighter pixel shows.

    Raises:
      InputError: there is no such split.
    """

    def __init__(self, examples: int, split: str | None, where: str = "data.train"):
        self._examples, self._split = examples, split or "train"
        if self._split not in SPLITS:
            near = difflib.get_close_matches(self._split, SPLITS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(
                f"{where}.split: source digit_pairs has no split {split!r}{hint}; there are "
                f"{', '.join(SPLITS)}"
            )
        kind = SPLITS[self._split]
        classes = np.flatnonzero(np.isin(folds(), kind.classes))
        self._captions = np.flatnonzero(np.isin(folds(), kind.captions))
        self._labels = np.searchsorted(classes, self._captions)
        self.class_names = tuple(caption(number) for number in classes.tolist())
        self._key = zlib.crc32(f"digit_pairs {self._split}".encode())
        self._images = _images_of(kind.digits)

    def __len__(self) -> int:
        return self._examples

    def __getitem__(self, i: int) -> Example:
        pair = self.pair(i)
        digits = Digits()
        image = np.zeros((CANVAS, CANVAS, 1), np.uint8)
        for row, (y, x) in zip(pair.rows, pair.corners, strict=True):
            digit = digits[row]["image"]
            place = image[y : y + digit.shape[0], x : x + digit.shape[1]]
            np.maximum(place, digit, out=place)
        label = int(self._labels[i % len(self._labels)])
        return {"image": image, "label": label, "captions": (caption(pair.caption),)}

    def pair(self, i: int) -> Pair:
        """What row `i` shows."""
        if not 0 <= i < self._examples:
            raise IndexError(i)
        number = int(self._captions[i % len(self._captions)])
        relation, first, second = number // 100, number // 10 % 10, number % 10
        of_first, of_second = self._images[first], self._images[second]
        bits = np.random.Philox(key=self._key, counter=[0, i, 0, 0])
        lowest = [0, 0, FIRST[0], SECOND[0], ACROSS[0], ACROSS[0]]
        ends = [len(of_first), len(of_second)]
        ends += [last + 1 for last in (FIRST[1], SECOND[1], ACROSS[1], ACROSS[1])]
        drawn = np.random.Generator(bits).integers(lowest, ends).tolist()
        rows = int(of_first[drawn[0]]), int(of_second[drawn[1]])
        corners = (drawn[4], drawn[2]), (drawn[5], drawn[3])
        if relation:
            corners = tuple((x, y) for y, x in corners)
        return Pair(number, rows, corners)

    def labels(self) -> Int[np.ndarray, " n"]:
        return np.resize(self._labels, self._examples).astype(np.int64)

    def name_of(self, i: int) -> str:
        return f"digit_pairs {self._split}, row {i}"


def caption(number: int) -> str:
    """What is said under a number 0..199."""
    relation, first, second = number // 100, number // 10 % 10, number % 10
    return f"{_digit(first)} {RELATIONS[relation]} {_digit(second)}"


def _digit(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {NAMES[digit]}"


@functools.cache
def folds() -> Int[np.ndarray, " 200"]:
    """Fold 0..4 of each caption: in every fold each digit comes twice first and twice second in
    each relation.

    A relation's 10 x 10 captions, digits in random order, are cut along their diagonals.
    """
    found = []
    for relation in range(len(RELATIONS)):
        draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([0, relation])))
        first, second = draw.permutation(10), draw.permutation(10)
        found.append((first[:, None] + second) % 10 * _FOLDS // 10)
    return np.concatenate(found, axis=None)


@functools.cache
def _images_of(part: str) -> tuple[Int[np.ndarray, " n"], ...]:
    """Rows of each digit 0..9 in a part of source "digits"."""
    labels = Digits().labels()
    rows = np.asarray(parts.select(part, len(labels), lambda: labels))
    return tuple(rows[labels[rows] == digit] for digit in range(10))
