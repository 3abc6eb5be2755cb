"""Being asked to stop: the first signal asks, the second insists.

Python runs a signal's handler in the main thread, and not before that is back from C++: compiling,
or waiting for a device or another process, takes minutes. What must not wait for it is done by a
thread here, which hears of each signal through `signal.set_wakeup_fd`.
"""

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

    def __init__(self, at_start: int | None = None) -> None:
        """Asks nothing yet.

        Args:
            at_start: exit code with which already the first signal ends the process at once, as
                long as there is nothing to save: until `begin`. For commands; None, for a caller
                who goes on living, lets it ask from the start.
        """
        self.received: int | None = None
        self._at_start = at_start
        self._former: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def begin(self) -> None:
        """From here on there is something to save: signals ask."""
        self._at_start = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self.SIGNALS:
            self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        if not self._former:
            return
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        signal.set_wakeup_fd(self._former_fd)
        os.write(self._write, b"\0")  # no signal has this number
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _handle(self, number: int, frame) -> None:
        if self.received is not None:
            return  # the thread ends the process
        self.received = number
        if self._at_start is None:
            print(
                f"{_name(number)}: saving after this step, then stopping; a second one stops at "
                "once.",
                file=sys.stderr,
                flush=True,
            )

    def _listen(self) -> None:
        """Counts signals as they come, whatever the main thread is at."""
        asked = False
        while (number := os.read(self._read, 1)[0]) != 0:
            if number not in self.SIGNALS:
                continue
            if (code := self._at_start) is not None:
                # No print: the main thread may hold the lock of stderr.
                os.write(2, f"{_name(number)} before the first step: nothing to save.\n".encode())
                _tell_others(code)
                os._exit(code)
            if asked:
                os._exit(128 + number)
            asked = True


def _tell_others(code: int) -> None:
    # Imports nothing: the main thread may be in the middle of the same import.
    failure = sys.modules.get("big_vit_lite.parallel.failure")
    if (announce := getattr(failure, "announce_stop", None)) is not None:
        announce(code)


def _name(number: int) -> str:
    return signal.Signals(number).name
