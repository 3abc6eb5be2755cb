"""Keeping a second run out of a folder of an object store, which knows no locks.

The holder's note is one object, which the holder rewrites every few seconds, and removes at its
end. A run that was killed leaves its note, which then stands still: whoever finds one watches
whether it moves (no clocks are compared) and takes it over if it does not, at once where its
process was on this machine and is gone. Every change names the generation of the note that it
changes, 0 for none, so that the store decides which of several runs is the first: two never hold
the same folder, and nobody rewrites the note of another.

That is less than a lock, as what is written below the folder is not part of the note. A run cut off
from the store for longer than PATIENCE_S can lose its folder to another; it sees so before it
begins to save, and again before that checkpoint counts, writes no more, and ends.
"""

import datetime
import json
import logging
import os
import secrets
import socket
import threading
import time
from typing import Any

from big_vit_lite.config import InputError, RunError
from big_vit_lite.storage import ObjectPath

log = logging.getLogger(__name__)
BEAT_S, PATIENCE_S = 10.0, 45.0


class Lease:
    """The right of this process to write below a folder of a store, kept up by a thread.

    Attributes:
        token: of this holder alone; it stands in the note.
    """

    def __init__(self, note: ObjectPath):
        """Takes the note, after watching that of a holder who may be dead.

        Args:
            note: the object.

        Raises:
            InputError: another run has it, saying which.
            OSError: the store cannot be reached or written to.
        """
        self.token = secrets.token_hex(8)
        self._path = note
        self._said = own_place() | {"token": self.token, "beat": 0}
        self._generation = self._take()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises RunError if another run has taken the folder over; OSError if nobody can tell."""
        _, holder = self._read()
        if holder is not None and holder.get("token") != self.token:
            raise RunError(
                f"{self._path.parent} was taken over by {describe(holder)}, as this run had not "
                f"reached the store for {PATIENCE_S:.0f} seconds; this run writes no more"
            )

    def close(self) -> None:
        """Gives the folder back."""
        self._ended.set()
        self._thread.join()
        try:
            generation, holder = self._read()
            if holder is not None and holder.get("token") == self.token:
                self._path.unlink_if(generation)
        except OSError as error:
            log.warning("%s stays behind: %s", self._path, error)

    def _take(self) -> int:
        """Writes the note where there is none, or that of a dead holder; its generation."""
        generation = 0
        while not (written := self._path.write_if(self._text(), generation)):
            generation, holder = self._read()
            if holder is None:  # removed a moment ago
                continue
            if holder.get("token") == self.token:  # written, and the answer was lost
                return generation
            if not died_here(holder):
                generation = self._watch(generation, holder)
        return written

    def _watch(self, generation: int, holder: dict[str, Any]) -> int:
        """Returns the generation of a note that has stood still for long enough, 0 if it went."""
        log.warning(
            "%s is or was in use by %s; seeing for %.0f s whether it still is",
            self._path.parent, describe(holder), PATIENCE_S,
        )  # fmt: skip
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            time.sleep(BEAT_S / 4)
            now = self._path.generation()
            if now == 0:  # it has ended, and given the folder back
                return 0
            if now != generation:
                raise self._in_use(self._read()[1] or holder)
        return generation

    def _in_use(self, holder: dict[str, Any]) -> InputError:
        return InputError(
            f"{self._path.parent} is in use by {describe(holder)}; "
            "wait for it, stop it, or choose another --workdir"
        )

    def _keep_up(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                if not self._beat():
                    return  # `check` tells the loop before its next save
            except OSError as error:
                log.warning("%s was not reached, will try again: %s", self._path, error)

    def _beat(self) -> bool:
        """Rewrites the note, if it still is this run's; whether it is."""
        self._said["beat"] += 1
        written = self._path.write_if(self._text(), self._generation)
        if written is None:
            written, holder = self._read()
            if holder is not None and holder.get("token") != self.token:
                return False
        self._generation = written
        return True

    def _text(self) -> bytes:
        return json.dumps(self._said).encode() + b"\n"

    def _read(self) -> tuple[int, dict[str, Any] | None]:
        """The note's generation and content: (0, None) if it is not there; a damaged one is
        nobody's. A note that changes meanwhile has the older generation, which changes nothing."""
        generation = self._path.generation()
        if generation == 0:
            return 0, None
        try:
            said = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return 0, None
        except ValueError:
            said = {}
        return generation, said if isinstance(said, dict) else {}


def own_place() -> dict[str, Any]:
    """Who this process is: pid, host, since, and the machine that pids are counted on."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe(holder: dict[str, Any]) -> str:
    """'process 7 on vm-3 since 2026-01-01T00:00:00+00:00'."""
    host = holder.get("host", "an unknown host")
    return f"process {holder.get('pid', '?')} on {host} since {holder.get('since', '?')}"


def died_here(holder: dict[str, Any]) -> bool:
    """Whether a process is known to be gone, for it was on this machine."""
    if not holder.get("machine") or holder["machine"] != _machine():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _machine() -> str | None:
    """This start of this machine and the container on it; equal host names are common."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
