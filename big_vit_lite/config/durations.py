"""Lengths of training: written as steps, epochs, examples or a share of the run, counted in steps.

An epoch is one pass over the examples of `data.train` (after its `part`). A length that is no
whole number of steps is rounded up, so that a run sees at least what was asked for. The
arithmetic is exact: 10 % of 30 steps are 3, not the 4 that floating point makes of it.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from big_vit_lite.config.errors import InputError

if TYPE_CHECKING:
    from big_vit_lite.config.schema import Run

WANTED = 'steps as a number, or "10 epochs", "5000 examples", "300 steps", "5%" of the run'
_NUMBER = r"(\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d{1,2})?|\.\d+)"
_FORM = re.compile(rf"\s*{_NUMBER}\s*(%|steps?|epochs?|examples?)?\s*")


def parse_duration(value: Any) -> int | str:
    """The canonical form of a duration: an int of steps, or "N epochs", "N examples", "N%".

    Raises:
        ValueError: if it is neither a whole number of steps >= 0 nor such a text.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"wants {WANTED}")
    match = _FORM.fullmatch(str(value))
    if match is None:
        raise ValueError(f"wants {WANTED}")
    number, unit = match[1].replace("_", ""), (match[2] or "steps")
    if Fraction(number) > 10**15:
        raise ValueError("is longer than any run")
    if unit.startswith("step"):
        if Fraction(number).denominator != 1:
            raise ValueError(f"is no whole number of steps; wants {WANTED}")
        return int(Fraction(number))
    if unit == "%":
        if Fraction(number) > 100:
            raise ValueError("is more than the whole run (100%)")
        return f"{number}%"
    return f"{number} {unit.rstrip('s')}s"


def amount(duration: int | str) -> Fraction:
    """The number in a canonical duration, whatever it counts."""
    return Fraction(re.match(_NUMBER, str(duration))[1])


def parse_interval(value: Any) -> int | str:
    """As `parse_duration`, but zero is refused: for things that happen every so often."""
    duration = parse_duration(value)
    if amount(duration) == 0:
        raise ValueError(f"is zero; wants {WANTED}, more than 0")
    return duration


Duration = Annotated[int | str, BeforeValidator(parse_duration)]
Every = Annotated[int | str, BeforeValidator(parse_interval)]


def steps_of(
    duration: int | str,
    batch_size: Run | int,
    examples: int | None = None,
    total: int | None = None,
) -> int:
    """Turns a duration into steps, rounded up.

    Args:
        duration: see `parse_duration`.
        batch_size: examples in a step, or the Run whose data.batch_size says so.
        examples: examples in an epoch, for durations in epochs.
        total: steps of the whole run, for durations in percent.

    Raises:
        InputError: if the duration cannot be read, or counts what is not known here.
    """
    try:
        duration = parse_duration(duration)
    except ValueError as error:
        raise InputError(f"duration {duration!r} {error}") from None
    if isinstance(duration, int):
        return duration
    number = amount(duration)
    if duration.endswith("%"):
        if total is None:
            raise InputError(f'duration "{duration}" is a share of a run whose length is not known')
        return math.ceil(number / 100 * total)
    if duration.endswith("epochs"):
        if examples is None:
            raise InputError(f'duration "{duration}" counts epochs of data whose size is not known')
        number *= examples
    size = batch_size if isinstance(batch_size, int) else batch_size.data.batch_size
    return math.ceil(number / size)


def total_steps(run: Run, examples: int | None = None) -> int:
    """Steps of the whole run, from its one of steps, epochs and examples.

    Args:
        run: the run.
        examples: examples in an epoch of data.train; needed for runs measured in epochs.

    Raises:
        InputError: if none of the three is set, or epochs are and `examples` is None.
    """
    if run.steps is not None:
        return run.steps
    if run.examples is not None:
        return steps_of(f"{run.examples} examples", run)
    if run.epochs is not None:
        return steps_of(f"{run.epochs!r} epochs", run, examples)
    raise InputError("the length of the run is not set: give one of steps, epochs, examples")
