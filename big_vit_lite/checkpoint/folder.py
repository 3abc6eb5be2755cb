"""The checkpoints/ directory: who may write, what is unfinished, what room is left.

Everything here is done by one process of a run, whatever their number.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
from pathlib import Path

from big_vit_lite import storage
from big_vit_lite.checkpoint import arrays, lease, manifest
from big_vit_lite.config import InputError
from big_vit_lite.storage import Place

log = logging.getLogger(__name__)
LOCK = ".lock"
OWNER = ".owner"  # beside it: to close any file that is locked gives the lock away
_LEFTOVER = re.compile(rf"\d+({re.escape(arrays.TEMPORARY)}.*)?")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def lock(directory: Place) -> "Lock | lease.Lease":
    """Keeps every other run out of a directory, as well as its kind allows.

    Raises:
        InputError: another run has it, saying which.
        OSError: it cannot be written to.
    """
    if isinstance(directory, storage.ObjectPath):
        return lease.Lease(directory / OWNER)
    directory.mkdir(parents=True, exist_ok=True)
    return Lock(directory)


class Lock:
    """Keeps every other run out of a directory for as long as this process lives.

    It is a POSIX record lock on a file, which the system takes back from a process however it ends,
    and which child processes do not inherit. It holds between hosts on NFS and, where they are
    mounted with locks, on Lustre and GPFS. A file system without locks is used with a warning.
    """

    def __init__(self, directory: Path):
        """Takes the lock.

        Raises:
            InputError: another process has it, saying which.
            OSError: the file cannot be written.
        """
        self.token = secrets.token_hex(8)
        self._file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = read_owner(directory)
                os.close(self._file)
                raise InputError(
                    f"{directory} is in use by {lease.describe(holder)}; "
                    "wait for it, stop it, or choose another --workdir"
                ) from None
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "%s lies on a file system without locks: nothing keeps a second run from writing "
                "there", directory,
            )  # fmt: skip
        note = lease.own_place() | {"token": self.token}
        storage.replace(directory / OWNER, json.dumps(note).encode() + b"\n")

    def check(self) -> None:
        """Nothing: nobody can take this lock away."""

    def close(self) -> None:
        os.close(self._file)


def read_owner(directory: Place) -> dict:
    """Who has, or last had, the lock of a directory: pid, host, since, token; {} if nobody."""
    try:
        note = json.loads((directory / OWNER).read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def check_room(directory: Place, needed: int, replaced: Place) -> None:
    """Raises OSError (disk full) unless so many bytes are free, or will be once `replaced`, which
    need not exist, is gone; quotas show only when writing.

    A store has room.
    """
    if storage.is_store(directory):
        return
    free = shutil.disk_usage(directory).free + sum(storage.files_below(replaced).values())
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"it takes {_size(needed)} and {_size(free)} are free on that disk"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def remove(checkpoint: Place) -> None:
    """Removes a finished checkpoint: its mark first, so that at no moment half of it counts."""
    manifest.revoke(checkpoint)
    storage.remove_tree(checkpoint)


def discard(directory: Place, step: int) -> None:
    """Removes what there is of a step that is not finished; what cannot be removed stays."""
    unfinished = [directory / str(step)]
    if isinstance(directory, Path):  # on a store Orbax writes where the checkpoint will be
        unfinished += directory.glob(f"{step}{arrays.TEMPORARY}*")
    for path in unfinished:
        with contextlib.suppress(OSError):
            if not manifest.is_committed(path):
                storage.remove_tree(path)


def remove_leftovers(directory: Place) -> None:
    """Removes what a killed run left unfinished."""
    for path in directory.iterdir():
        ours = _LEFTOVER.fullmatch(path.name) and path.is_dir()
        if ours and not manifest.is_committed(path):
            log.info("removing the unfinished checkpoint %s", path)
            storage.remove_tree(path)
