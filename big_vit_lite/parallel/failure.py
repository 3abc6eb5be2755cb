"""How the processes of a run end together.

One that fails says so through JAX's coordination service, and the others end with its exit code:
whoever started them reads one answer, and nobody waits for its part of a sum. One that dies, or
falls silent, says nothing, and the others end with PEER_ENDED: when a computation fails, or when
JAX's own client misses a heartbeat, or the service itself, and aborts.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from big_vit_lite.config import exit_code
from big_vit_lite.exit_codes import PEER_ENDED, STOPPED

END_SECONDS = 10  # how long a process that failed waits for the others to say the same
SHARED_SECONDS = 3  # the same, if what failed is a computation that all of them share
FOLLOW_SECONDS = 5  # how long one that hears of a failure has for saying its own
STOP_SECONDS = 2  # how long the others, which ask each second, have for hearing of a stop
_ENDED = "big_vit_lite/ended"  # "CODE PROCESS" of the first that failed
_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")  # no peer's fault
_code = PEER_ENDED  # what this process ends with if it is aborted


def ending(command: Callable[[], int | None]) -> int:
    """Runs a command as `config.exit_code` does, and ends all processes of a run together.

    A process that fails tells the others, waits for END_SECONDS, in case they fail alike and have
    to say so, and then ends at once. If it is a computation shared by all that failed, and not all
    others say the same, one of them has ended: PEER_ENDED, unless that one has told its own code.
    """
    shared = False

    def attempt() -> int | None:
        nonlocal shared
        try:
            return command()
        except Exception as error:
            shared = several() and is_shared(error)
            raise

    try:
        code = exit_code(attempt)
    except Exception:
        if not several():
            raise
        traceback.print_exc()
        code = 1
    return _end(code, shared) if several() and code not in (0, 3) else code


def _end(code: int, shared: bool) -> int:
    import jax

    if not shared:
        code = announce(code)
    try:
        seconds = SHARED_SECONDS if shared else END_SECONDS
        client().wait_at_barrier("big_vit_lite/failed", seconds * 1000)
        return announce(code)
    except jax.errors.JaxRuntimeError:
        pass
    if shared and (code := announce(PEER_ENDED)) == PEER_ENDED:
        print(
            f"process {_index()}: a computation that all processes share failed, most likely "
            "because another one ended. The last checkpoint stands: run the same command again on "
            "all hosts.",
            file=sys.stderr,
        )
    _leave(code)


def announce(code: int) -> int:
    """Tells the other processes that this one ends with `code`, unless one has told before.

    Returns:
        What the first one told, or `code` if the service is gone.
    """
    global _code
    import jax

    try:
        client().key_value_set(_ENDED, f"{code} {_index()}")
    except jax.errors.JaxRuntimeError:
        told = _told()
        code = code if told is None else told[0]
    _code = code
    return code


def announce_stop(code: int) -> None:
    """Tells the other processes, if this one has joined any, that a signal stops it before the
    first step, so that they need not wait for it; returns once they can have heard.

    For a thread of signals: also while the main thread imports JAX, or is in C++.
    """
    distributed = sys.modules.get("jax._src.distributed")
    state = getattr(distributed, "global_state", None)
    service = getattr(state, "client", None)
    if service is None:
        return

    def tell() -> None:
        with contextlib.suppress(Exception):  # the service is gone, or another has told before
            service.key_value_set(_ENDED, f"{code} {state.process_id}")

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(STOP_SECONDS)
    if state.process_id == 0:  # what it has told goes with it
        time.sleep(STOP_SECONDS)


def follow() -> None:
    """Starts what ends this process when another one has failed, died or fallen silent."""
    over = threading.Event()
    threads = [
        threading.Thread(target=watch, args=(over,), daemon=True)
        for watch in (_watch_others, _watch_abort)
    ]
    for thread in threads:
        thread.start()

    def close() -> None:  # a thread that is in C++ when the interpreter ends would crash it
        over.set()
        for thread in threads:
            thread.join(5)

    atexit.register(close)


def _watch_others(over: threading.Event) -> None:
    """Ends this process soon after another one has told that it failed."""
    global _code
    while not over.wait(1):
        if (told := _told()) is None:
            continue
        _code, process = told
        stopped = _code == STOPPED
        # Process 0 goes last: without its service JAX aborts the others, with pages of stacks.
        if _index():
            seconds = 0 if stopped else FOLLOW_SECONDS
        else:
            seconds = STOP_SECONDS if stopped else END_SECONDS + 1
        if process != _index() and not over.wait(seconds):
            how = "was stopped before the first step" if stopped else "failed, see there"
            print(f"process {process} {how}; this one ends, too.", file=sys.stderr)
            _leave(_code)
        return


def _watch_abort(over: threading.Event) -> None:
    """Ends this process with an exit code that tells why, when JAX aborts it.

    JAX takes no callback for a missed heartbeat (one written in Python makes it crash): a thread of
    its own, in C++, calls abort(). The handler of SIGABRT is a sleep, which gives the time to see
    here that the handler is gone: with System V's signals it is, once it is called. Whatever goes
    wrong with this, the abort goes on after the sleep. Needs glibc; elsewhere, and where
    faulthandler has that signal, the process ends by SIGABRT.
    """
    libc = ctypes.CDLL(None)
    if faulthandler.is_enabled() or not hasattr(libc, "sysv_signal"):
        return
    handle = libc.sysv_signal
    handle.argtypes, handle.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    sleep = ctypes.cast(libc.sleep, ctypes.c_void_p).value  # for as many seconds as the number: 6
    handle(signal.SIGABRT, sleep)
    while not over.wait(0.5):
        if handle(signal.SIGABRT, sleep) != sleep:
            if _code == PEER_ENDED:
                print(
                    f"process {_index()} was aborted, most likely because another one ended or has "
                    "been silent for too long. The last checkpoint stands: run the same command "
                    "again on all hosts.",
                    file=sys.stderr,
                )
            _leave(_code)
    handle(signal.SIGABRT, None)


def is_shared(error: BaseException | None) -> bool:
    """Whether a computation of all processes is at the root of an error, rather than this one's
    own memory or program."""
    import jax

    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return not str(error).startswith(_OWN)
        error = error.__cause__ or error.__context__
    return False


def several() -> bool:
    """Whether this run has other processes; asks nothing of devices, so JAX may start later."""
    import jax

    return jax.distributed.is_initialized()


def client() -> Any:
    """The coordination service's client: keys and barriers that need no device."""
    from jax._src import distributed  # JAX has no public way; Orbax and others go this one, too

    return distributed.global_state.client


def _index() -> int:
    from jax._src import distributed

    return distributed.global_state.process_id


def _told() -> tuple[int, int] | None:
    """(code, process) of the first that told."""
    import jax

    try:
        code, process = client().key_value_try_get(_ENDED).split()
    except jax.errors.JaxRuntimeError:
        return None
    return int(code), int(process)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
