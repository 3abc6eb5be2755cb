"""Batches made ahead of the consumer: blocks on grain's threads, transfers on one more."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

Batch = TypeVar("Batch")
_END = object()
CLOSE_SECONDS = 10.0  # how long close() waits for a read that hangs


class Prefetched(Generic[Batch]):
    """Iterator of `make(blocks[0:k])`, `make(blocks[k:2k])`, ..., up to `ahead` + 1 made ahead.

    `make` gives a batch and the examples that could not be used for it. What a thread raises is
    raised again by `next`, at the batch it belongs to. Threads end with the last batch, with
    `close()`, and when the iterator is dropped.

    Attributes:
      wait_s: seconds that the last `next` waited.
      skipped: examples that could not be used for the last batch.
    """

    def __init__(
        self,
        blocks: Iterator[Any],
        batches: int | None,
        per_batch: int,
        make: Callable[[list], tuple[Batch, tuple]],
        ahead: int = 1,
    ):
        self.wait_s = 0.0
        self.skipped: tuple = ()
        self._queue: queue.Queue = queue.Queue(maxsize=ahead)
        stopped = threading.Event()
        arguments = (blocks, batches, per_batch, make, self._queue, stopped)
        thread = threading.Thread(target=_fill, args=arguments, name="batches", daemon=True)
        self._close = weakref.finalize(self, _stop, stopped, self._queue, thread)
        thread.start()

    def __iter__(self) -> Prefetched[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        item = self._wait()
        self.wait_s = time.perf_counter() - start
        if item is _END:
            self.close()
            raise StopIteration
        if isinstance(item, _Raised):
            self.close()
            raise item.error
        batch, self.skipped = item
        return batch

    def _wait(self) -> Any:
        while self._close.alive:  # a signal handler may close while this waits
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=1.0)
        return _END

    def close(self) -> None:
        """Ends the threads and drops what they made; may be called twice."""
        self._close()

    def __enter__(self) -> Prefetched[Batch]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Raised:
    def __init__(self, error: BaseException):
        self.error = error


def _fill(
    blocks: Any,
    batches: int | None,
    per_batch: int,
    make: Callable[[list], Any],
    into: queue.Queue,
    stopped: threading.Event,
) -> None:
    """Runs on a thread that must not hold the iterator, or dropping it would not end the thread."""
    try:
        made = 0
        while (batches is None or made < batches) and not stopped.is_set():
            _put(into, make([next(blocks) for _ in range(per_batch)]), stopped)
            made += 1
        _put(into, _END, stopped)
    except BaseException as error:
        _put(into, _Raised(error), stopped)
    finally:
        blocks.close()


def _put(into: queue.Queue, item: Any, stopped: threading.Event) -> None:
    while not stopped.is_set():
        with contextlib.suppress(queue.Full):
            into.put(item, timeout=0.1)
            return


def _stop(stopped: threading.Event, waiting: queue.Queue, thread: threading.Thread) -> None:
    stopped.set()
    with contextlib.suppress(queue.Empty):
        while True:
            waiting.get_nowait()
    if thread is not threading.current_thread():
        thread.join(CLOSE_SECONDS)
