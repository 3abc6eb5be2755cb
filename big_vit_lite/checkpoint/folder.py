"""The checkpoints/ directory on the disk: who may write, what is unfinished, what room is left.

Everything here is done by one process of a run, whatever their number.
"""

import datetime
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import socket
from pathlib import Path

from big_vit_lite.checkpoint import arrays, manifest
from big_vit_lite.config import InputError

log = logging.getLogger(__name__)
LOCK = ".lock"
OWNER = ".owner"  # beside it: to close any file that is locked gives the lock away
_LEFTOVER = re.compile(rf"\d+({re.escape(arrays.TEMPORARY)}.*)?")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


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
                    f"{directory} is in use by process {holder.get('pid', '?')} on "
                    f"{holder.get('host', 'an unknown host')} since {holder.get('since', '?')}; "
                    "wait for it, stop it, or choose another --workdir"
                ) from None
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "%s lies on a file system without locks: nothing keeps a second run from writing "
                "there", directory,
            )  # fmt: skip
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "token": self.token,
        }
        (directory / OWNER).write_text(json.dumps(note) + "\n")

    def close(self) -> None:
        os.close(self._file)


def read_owner(directory: Path) -> dict:
    """Who has, or last had, the lock of a directory: pid, host, since, token; {} if nobody."""
    try:
        note = json.loads((directory / OWNER).read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def check_room(directory: Path, needed: int) -> None:
    """Raises OSError (disk full) unless so many bytes are free; quotas show only when writing."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"it takes {_size(needed)} and {_size(free)} are free on that disk"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def remove(checkpoint: Path) -> None:
    """Removes a finished checkpoint: its mark first, so that at no moment half of it counts."""
    manifest.revoke(checkpoint)
    shutil.rmtree(checkpoint)


def discard(directory: Path, step: int) -> None:
    """Removes what there is of a step that is not finished."""
    unfinished = list(directory.glob(f"{step}{arrays.TEMPORARY}*"))
    if not manifest.is_committed(directory / str(step)):
        unfinished.append(directory / str(step))
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Removes what a killed run left unfinished."""
    for path in directory.iterdir():
        ours = path.is_dir() and _LEFTOVER.fullmatch(path.name)
        if ours and not manifest.is_committed(path):
            log.info("removing the unfinished checkpoint %s", path)
            shutil.rmtree(path)
