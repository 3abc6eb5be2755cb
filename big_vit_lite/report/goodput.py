"""Goodput: the share of a run's time, from its first start on, that went into steps that count."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from big_vit_lite.report.progress import duration


class Goodput:
    """Adds up the time of steps on the device, across restarts. A context manager.

    A step takes from when it was dispatched, or the one before it ended, to its own end. So waiting
    for data, compiling, evaluating, saving and standing still between two starts do not count. Nor
    do steps that a kill took back: a resumed run goes on from the sum in its checkpoint, while the
    time since the first start has passed. A run killed before its first checkpoint starts anew.

    Ends of steps are seen in a thread, so that neither the device nor the loop waits for the other.
    """

    def __init__(
        self,
        began_at: float,
        earlier: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ):
        """Begins to watch.

        Args:
            began_at: when this process began with the run, in Unix seconds.
            earlier: what `to_dict` said at the checkpoint that the run goes on from.
            clock: seconds by which steps are timed; injectable for tests, as is the next.
            wall: Unix seconds, which go on between two starts.
        """
        earlier = earlier or {}
        self._clock, self._wall = clock, wall
        self._first_start = earlier.get("first_start", began_at)
        self._productive = earlier.get("productive_s", 0.0)
        self._ended = -float("inf")
        self._running: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._watch, name="goodput", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Goodput":
        return self

    def __exit__(self, *exception) -> None:
        self._running.put(None)
        self._thread.join(timeout=1.0)  # a step that hangs, or failed, holds up nothing

    def step(self, dispatched: float, result: Any) -> None:
        """Counts a step.

        Args:
            dispatched: time of the clock just before it was; a small step may run at once.
            result: arrays that are there when the step has ended, and that nothing donates.
        """
        self._running.put((dispatched, result))

    def read(self) -> dict[str, float]:
        """{"speed/goodput": share of the time so far}, of the steps that have ended."""
        return {"speed/goodput": self._productive / self._seconds()}

    def to_dict(self) -> dict[str, float]:
        """What a checkpoint keeps, when all steps so far have ended."""
        self._running.join()
        return {"first_start": self._first_start, "productive_s": self._productive}

    def describe(self) -> str:
        """'goodput 81.2%: 42 min 10 s of steps in 51 min 56 s since the first start'."""
        seconds = self._seconds()
        return (
            f"goodput {self._productive / seconds:.1%}: {duration(self._productive)} of steps in "
            f"{duration(seconds)} since the first start"
        )

    def _seconds(self) -> float:
        # A machine's clock can be set back; a share stays one.
        return max(self._wall() - self._first_start, self._productive, 1e-9)

    def _watch(self) -> None:
        while (item := self._running.get()) is not None:
            dispatched, result = item
            try:
                jax.block_until_ready(result)
            except Exception:
                pass  # the loop reads the same arrays, and tells of it
            else:
                now = self._clock()
                self._productive += now - max(dispatched, self._ended)
                self._ended = now
            self._running.task_done()
