"""Tells of a run that stands still: what it waits for, and the stacks of all threads."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO


@dataclass
class _Wait:
    """One thing that is waited for.

    Attributes:
        since: on the monotonic clock, seconds.
        tell_at: seconds of waiting after which it is told of, next time.
        told: whether it has been.
    """

    what: str
    since: float
    tell_at: float
    told: bool = False

    @property
    def lasted(self) -> float:
        return time.monotonic() - self.since


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
        # Held while a wait is judged and told of, and while the next one takes its place: nothing
        # is said to be missing after it has come, and what was told of is said to have come.
        self._lock = threading.Lock()
        self._wait: _Wait | None = None
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
        if self._seconds is None:
            return
        with self._lock:
            before = self._wait
            self._wait = _Wait(what, time.monotonic(), patience * self._seconds)
            if before is not None and before.told:
                self._say(f"{before.what} is there after {before.lasted:,.1f} s; the run goes on")

    @contextlib.contextmanager
    def at_end(self, what: str) -> Iterator[None]:
        """Expects `what` when the block ends, also by an error: for what is closed after it."""
        try:
            yield
        finally:
            self.expect(what)

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds / 10):
            with self._lock:
                self._judge(self._wait)

    def _judge(self, wait: _Wait | None) -> None:
        """Tells of a wait that has lasted too long."""
        if wait is None or (late := wait.lasted) < wait.tell_at:
            return
        wait.told, wait.tell_at = True, 2 * late
        self._say(
            f"nothing has moved for {late:,.1f} s: waiting for {wait.what}. The stacks of all "
            "threads follow; report.watchdog_s sets when this is told"
        )
        faulthandler.dump_traceback(self._stream.fileno(), all_threads=True)

    def _say(self, text: str) -> None:
        print(f"watchdog{self._name}: {text}", file=self._stream, flush=True)
