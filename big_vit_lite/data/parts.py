"""The `part` grammar: which rows of a split are used, as text a person can read.

    ""                                   all of it
    "[:99%]"  "[99%:]"  "[1415:]"        by position, in counts or percent of the rows
    "held_out(20%, seed=0)"              a random part with the same share of every class
    "rest(20%, seed=0)"                  all but that part
    "rest(20%, seed=0)|held_out(15%, seed=1)"    one after the other

A percentage of n rows is round(n * p / 100), halves up, wherever it stands: "[:99%]" and "[99%:]"
are disjoint and complete for every n, and so are held_out and rest of one size and seed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError

_NUMBER = r"-?\d+(?:\.\d+)?%?"
_SLICE = re.compile(rf"\[\s*({_NUMBER})?\s*:\s*({_NUMBER})?\s*\]")
_DRAW = re.compile(r"(held_out|rest)\(\s*(\d+(?:\.\d+)?%?)\s*(?:,\s*seed\s*=\s*(\d+)\s*)?\)")
_GRAMMAR = "'[:99%]', '[1415:]', 'held_out(20%, seed=0)', 'rest(20%, seed=0)', chained by '|'"


def select(
    part: str, n: int, labels: Callable[[], Int[np.ndarray, " n"]], where: str = "data.train"
) -> Sequence[int]:
    """Rows that `part` keeps of `n`, in ascending order; a range where they are consecutive.

    Args:
      labels: gives the label of every row; called only for held_out and rest.

    Raises:
      InputError: not in the grammar, out of range, or nothing left.
    """
    rows: Sequence[int] = range(n)
    for stage in part.split("|"):
        try:
            rows = _apply(stage.strip(), rows, labels)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{where}.part {part!r}: {error}") from None
        if not len(rows):
            raise InputError(f"{where}.part {part!r}: {stage.strip()!r} keeps none of {n} examples")
    return rows


def check(part: str) -> list[str]:
    """Faults of a part's grammar, one sentence each, without any data."""
    if not part.strip():
        return []
    faults = []
    for stage in (stage.strip() for stage in part.split("|")):
        try:
            for text in _sizes(stage):
                _count(text, sys.maxsize)
        except ValueError as error:
            faults.append(str(error))
    return faults


def _sizes(stage: str) -> list[str]:
    """The counts and percentages that a stage names."""
    if match := _SLICE.fullmatch(stage):
        return [text for text in match.groups() if text]
    if match := _DRAW.fullmatch(stage):
        return [match[2]]
    raise ValueError(_unknown(stage))


def _unknown(stage: str) -> str:
    return f"{stage!r} is not a part; write for example {_GRAMMAR}"


def _apply(stage: str, rows: Sequence[int], labels: Callable) -> Sequence[int]:
    if match := _SLICE.fullmatch(stage):
        first, last = match.groups()
        start = 0 if first is None else _count(first, len(rows))
        stop = len(rows) if last is None else _count(last, len(rows))
        return rows[start:stop]
    if match := _DRAW.fullmatch(stage):
        which, size, seed = match.groups()
        of_rows = np.asarray(labels())[np.asarray(rows)]
        drawn = stratified(of_rows, _count(size, len(rows)), int(seed or 0))
        keep = drawn if which == "held_out" else ~drawn
        return np.asarray(rows)[keep]
    raise ValueError(_unknown(stage))


def _count(text: str, n: int) -> int:
    """'20%' or '300' of n rows as a position 0..n; negative counts from the end."""
    if text.endswith("%"):
        share = Fraction(text[:-1]) / 100
        if not -1 <= share <= 1:
            raise ValueError(f"{text} is more than there is")
        count = (abs(share) * n + Fraction(1, 2)).__floor__()
        return count if share >= 0 else n - count
    if "." in text:
        raise ValueError(f"{text} is not a whole number of examples; did you mean {text}%?")
    count = int(text)
    if abs(count) > n:
        raise ValueError(f"asks for example {text} of only {n}")
    return count if count >= 0 else n + count


def stratified(labels: Int[np.ndarray, " n"], count: int, seed: int) -> np.ndarray:
    """Boolean mask (n,) of `count` rows drawn so that every class is within 1 of its share.

    The rows of a class are ordered by a generator of (seed, class), so that a class keeps its
    draw whatever the other classes hold. What rounding down leaves over goes to the classes with
    the largest remainders.
    """
    classes, of_row, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    extra = np.argsort(-remainder, kind="stable")[: count - quota.sum()]
    quota[extra] += 1
    mask = np.zeros(len(labels), bool)
    for i, name in enumerate(classes):
        draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(name)])))
        members = np.flatnonzero(of_row == i)
        mask[draw.permutation(members)[: quota[i]]] = True
    return mask
