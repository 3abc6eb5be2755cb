"""Being asked to stop: the first signal asks, the second insists."""

import os
import signal
import sys
import threading


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a question the loop asks between two steps.

    A context manager: the former handlers come back on exit. In a thread other than the main one,
    where Python allows no handlers, it never asks. Truthy once a signal came. A second
    signal ends the process at once, without saving, with the signal's usual exit code.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in self.SIGNALS if in_main_thread else ():
            self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        name = signal.Signals(number).name
        print(
            f"{name}: saving after this step, then stopping; a second one stops at once.",
            file=sys.stderr,
            flush=True,
        )
