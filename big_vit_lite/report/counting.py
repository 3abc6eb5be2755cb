"""How far a command is that goes once through the examples of a split."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from big_vit_lite.report.progress import duration

SECONDS = 10  # between lines in a log


class Counts(Protocol):
    """Examples that are done, and how many of them were left out."""

    total: int
    done: int
    skipped: int


class Counting:
    """A bar on a terminal; in a log a line now and then."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._done = 0
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def update(self, counts: Counts) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            if self._bar is None:
                self._open(counts)
            self._bar.update(self._task, completed=counts.done, text=_left_out(counts))
        elif now - self._told >= SECONDS or counts.done == counts.total > self._done:
            self._told, self._done = now, counts.done
            seconds = duration(now - self._began)
            self.say(f"{counts.done:,}/{counts.total:,} examples{_left_out(counts)}, {seconds}")

    def _open(self, counts: Counts) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=counts.total, text="")
        self._bar.start()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _left_out(counts: Counts) -> str:
    return f", {counts.skipped:,} left out" if counts.skipped else ""
