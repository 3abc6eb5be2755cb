"""What a person sees while a run goes: a live line on a terminal, plain lines in a log file."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

# (metric, how it reads in a line); whatever else a row has follows as "key value".
_KNOWN: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("train/loss", lambda v: f"loss {v:.4f}"),
    ("train/lr", lambda v: f"lr {v:.2e}"),
    ("train/grad_norm", lambda v: f"grad {v:.3g}"),
    ("speed/images_per_s", lambda v: f"{v:,.0f} images/s" if v >= 100 else f"{v:.3g} images/s"),
    ("speed/mfu", lambda v: f"MFU {v:.1%}"),
    ("speed/data_wait", lambda v: f"data wait {v:.1%}"),
    ("speed/goodput", lambda v: f"goodput {v:.1%}"),
    ("memory/peak_bytes", lambda v: f"memory {v / 2**30:.2f} GiB"),
)
# Columns in which all of _KNOWN fits beside a bar, and what fits in 80.
_WIDE = 150
_LIVE = ("train/loss", "speed/images_per_s", "speed/data_wait")
# Told in other words, or of no use to a reader of lines.
_SILENT = {
    "speed/images_per_s_per_chip",
    "speed/compile_s",
    "speed/step_s",
    "train/examples",
    "train/epoch",
}


class Progress:
    """Tells how far a run is.

    On a terminal a bar with step, time left and the numbers of training stays at the bottom, and
    evaluations stand above it. Where the terminal is too narrow for all of them the bar has loss,
    images/s and data wait, and every row is a line above it, as it is where there is no terminal.
    """

    def __init__(
        self,
        total: int,
        stream: IO[str] | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepares; the bar appears with the first step.

        Args:
            total: steps of the run.
            stream: where to write; None: stderr.
            terminal: whether it is a terminal; None: asks it.
            clock: seconds, for tests.
        """
        self._total, self._clock, self._began = total, clock, clock()
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._first: tuple[int, float] | None = None
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """A line with the time since the start."""
        self._print(f"[{self._clock() - self._began:7.1f} s] {text}")

    def update(self, step: int) -> None:
        """`step` steps are finished."""
        if self._first is None:
            self._first = (step, self._clock())
        if self._terminal:
            if self._bar is None:
                self._open_bar(step)
            self._bar.update(self._task, completed=step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""
        self.update(step)
        training = any(key.startswith(("train/", "speed/")) for key in values)
        wide = self._terminal and self._bar.console.width >= _WIDE
        if not (wide and training):
            left = "" if self._terminal else self._left(step)  # the bar tells it
            self.say(f"step {step}/{self._total}  {describe(values)}{left}")
        if self._terminal and training:
            keys = dict(_KNOWN) if wide else _LIVE
            live = describe({key: values[key] for key in keys if key in values})
            self._bar.update(self._task, text=live)

    def close(self) -> None:
        """Leaves the bar as it is and gives the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self, step: int) -> str:
        """Time to the end at the mean speed so far of this process, evaluations included."""
        first, began = self._first
        if step <= first or step >= self._total:
            return ""
        seconds = (self._clock() - began) / (step - first) * (self._total - step)
        return f"  {duration(seconds)} left"

    def _open_bar(self, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(file=self._stream, force_terminal=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=self._total, completed=step, text="")
        self._bar.start()

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)


def describe(values: Mapping[str, float]) -> str:
    """Metrics as one line for a person."""
    known = dict(_KNOWN)
    parts = [show(values[key]) for key, show in _KNOWN if key in values]
    others = [key for key in values if key not in known and key not in _SILENT]
    return "  ".join(parts + [f"{key} {_short(values[key])}" for key in others])


def duration(seconds: float) -> str:
    """Seconds as "42 s", "3 min 05 s" or "2 h 07 min"."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
