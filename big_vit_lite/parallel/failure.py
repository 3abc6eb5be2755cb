"""How the processes of a run end together.

One that fails says so through JAX's coordination service, and the others end with its exit code:
whoever started them reads one answer, and nobody waits for its part of a sum. One that dies, or
falls silent, says nothing. The others notice by a computation that fails, which is PEER_ENDED, or
JAX's own client ends them from C++ after the heartbeat, by SIGABRT (code 134 to a shell).
"""

import atexit
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from big_vit_lite.config import PEER_ENDED, exit_code

END_SECONDS = 10  # how long a process that failed waits for the others to say the same
SHARED_SECONDS = 5  # the same, if what failed is a computation that all of them share
FOLLOW_SECONDS = 5  # how long one that hears of a failure has for saying its own
LAST_SECONDS = 1  # process 0 goes last: without its service JAX aborts the others
_ENDED = "big_vit_lite/ended"  # "CODE PROCESS" of the first that failed
_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")  # no peer's fault


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
            shared = several() and _is_shared(error)
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
    _leave(code, LAST_SECONDS)


def announce(code: int) -> int:
    """Tells the other processes that this one ends with `code`, unless one has told before.

    Returns:
        What the first one told, or `code` if the service is gone.
    """
    import jax

    try:
        client().key_value_set(_ENDED, f"{code} {_index()}")
    except jax.errors.JaxRuntimeError:
        told = _told()
        return code if told is None else told[0]
    return code


def follow() -> None:
    """Lets a thread end this process soon after another one has told that it failed."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            if (told := _told()) is None:
                continue
            code, process = told
            if process == _index() or over.wait(FOLLOW_SECONDS):
                return
            print(f"process {process} failed, see there; this one ends, too.", file=sys.stderr)
            _leave(code, max(0, END_SECONDS - FOLLOW_SECONDS) + 2 * LAST_SECONDS)

    thread = threading.Thread(target=watch, name="peers", daemon=True)
    thread.start()

    def close() -> None:  # a thread that is in C++ when the interpreter ends would crash it
        over.set()
        thread.join(5)

    atexit.register(close)


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


def _leave(code: int, last: float) -> None:
    """Ends this process at once; process 0 `last` seconds later."""
    sys.stdout.flush()
    sys.stderr.flush()
    if _index() == 0:
        time.sleep(last)
    os._exit(code)


def _is_shared(error: BaseException | None) -> bool:
    """Whether a computation of all processes is at the root of an error, rather than this one's
    own memory or program."""
    import jax

    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return not str(error).startswith(_OWN)
        error = error.__cause__ or error.__context__
    return False
