"""How far a command is that goes once through the examples of a split."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Any, Protocol

from big_vit_lite.report.progress import duration

SECONDS = 10  # between lines in a log


class Counts(Protocol):
    """Examples that are done, and how many of them were left out."""

    total: int
    done: int
    skipped: int


class Counting:
    """A bar on a terminal; in a log a line now and then. Both have speed and time left.

    Args:
        unit: what is counted.
        stream: where to write; None: stderr.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        unit: str = "examples",
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit, self._clock = unit, clock
        self._stream = sys.stderr if stream is None else stream
        self._began = self._told = clock()
        self._first: tuple[int, float] | None = None
        self._done = 0
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def update(self, counts: Counts) -> None:
        now = self._clock()
        if self._first is None:  # what an earlier process has done says nothing of this one's speed
            self._first = counts.done, now
        if self._stream.isatty():
            if self._bar is None:
                self._open(counts)
            told = f"{self._speed(counts, now)}{_left_out(counts)}".removeprefix(", ")
            self._bar.update(self._task, completed=counts.done, text=told)
        elif now - self._told >= SECONDS or counts.done == counts.total > self._done:
            self._told, self._done = now, counts.done
            seconds = duration(now - self._began)
            self.say(
                f"{counts.done:,}/{counts.total:,} {self._unit}{_left_out(counts)}, {seconds}"
                f"{self._speed(counts, now)}{self._left(counts, now)}"
            )

    def _speed(self, counts: Counts, now: float) -> str:
        first, began = self._first
        if counts.done <= first or now <= began:
            return ""
        speed = (counts.done - first) / (now - began)
        return f", {speed:,.0f} {self._unit}/s" if speed >= 100 else f", {speed:.3g} {self._unit}/s"

    def _left(self, counts: Counts, now: float) -> str:
        first, began = self._first
        if not first < counts.done < counts.total:
            return ""
        seconds = (now - began) / (counts.done - first) * (counts.total - counts.done)
        return f", {duration(seconds)} left"

    def _open(self, counts: Counts) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[text]}"),
            console=Console(file=self._stream, force_terminal=True),
        )
        self._task = self._bar.add_task("", total=counts.total, completed=counts.done, text="")
        self._bar.start()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _left_out(counts: Counts) -> str:
    return f", {counts.skipped:,} left out" if counts.skipped else ""
