"""Tells of a run that stands still: what it waits for, and the stacks of all threads."""

import faulthandler
import sys
import threading
import time
from typing import IO


class Watchdog:
    """Reports when the next sign of life is late; it never ends a run. A context manager.

    It watches from the first `expect` on, so compiling before that takes as long as it takes. A
    stall is told of once, and again each time it has lasted twice as long.
    """

    def __init__(self, seconds: float | None, name: str = "", stream: IO[str] | None = None):
        """Begins to watch.

        Args:
            seconds: how long a sign may take; None: nothing is watched.
            name: whose signs they are, for the first words of a report.
            stream: a file with a descriptor; None: stderr.
        """
        self._seconds, self._name = seconds, name
        self._stream = sys.stderr if stream is None else stream
        self._expected: tuple[str, float, float] | None = None  # what, since when, how long
        self._told: float | None = None  # seconds of the stall when it was last told of
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds is not None:
            self._thread.start()

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def expect(self, what: str, patience: float = 1.0) -> None:
        """A sign of life: from now on the run waits for `what`, for `patience` times as long."""
        before, told = self._expected, self._told
        now = time.monotonic()
        if self._seconds is not None:
            self._expected, self._told = (what, now, patience * self._seconds), None
        if before is not None and told is not None:
            self._say(f"{before[0]} is there after {now - before[1]:,.1f} s; the run goes on")

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds / 10):
            expected, told = self._expected, self._told
            if expected is None:
                continue
            what, since, seconds = expected
            late = time.monotonic() - since
            if late < (seconds if told is None else 2 * told) or expected is not self._expected:
                continue
            self._told = late
            self._say(
                f"nothing has moved for {late:,.1f} s: waiting for {what}. The stacks of all "
                "threads follow; report.watchdog_s sets when this is told"
            )
            faulthandler.dump_traceback(self._stream.fileno(), all_threads=True)

    def _say(self, text: str) -> None:
        print(f"watchdog{self._name}: {text}", file=self._stream, flush=True)
