"""The file that rows of metrics go to: written in place on a disk, anew as an object on a store."""

import errno
import os
import time
from pathlib import Path

from big_vit_lite import storage
from big_vit_lite.storage import ObjectPath

EVERY_S = 30
"""How often an object is written again at most, beside every `sync`. Stores bound the rate."""


class LocalLines:
    """Lines of a local file; the last one can be written again."""

    def __init__(self, path: Path):
        self._path = path
        self._file = self._open()

    def replace(self, lines: list[bytes]) -> None:
        """Makes these the content, atomically and durably."""
        storage.replace(self._path, b"".join(lines))
        os.close(self._file)
        self._file = self._open()

    def end(self) -> int:
        """Where the next line begins."""
        return os.lseek(self._file, 0, os.SEEK_END)

    def write(self, start: int, line: bytes) -> None:
        """Writes the last line, from where it begins. It is in the file on return."""
        written = os.pwrite(self._file, line, start)  # one call: whole, or not there
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self._file, start + len(line))

    def sync(self) -> None:
        """Returns when all lines are on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)


class StoredLines:
    """Lines of an object, which are kept here and written whole: at `sync`, at `close`, and when a
    line comes EVERY_S after the last time. A killed process loses those since."""

    def __init__(self, path: ObjectPath):
        self._path = path
        try:
            self._content = bytearray(path.read_bytes())
        except FileNotFoundError:
            self._content = bytearray()
            path.write_bytes(b"")  # a bucket that cannot be written to is told of at once
        self._written, self._changed = time.monotonic(), False

    def replace(self, lines: list[bytes]) -> None:
        """See LocalLines, as for the other methods."""
        self._content = bytearray(b"".join(lines))
        self._write()

    def end(self) -> int:
        return len(self._content)

    def write(self, start: int, line: bytes) -> None:
        self._content[start:] = line
        self._changed = True
        if time.monotonic() - self._written >= EVERY_S:
            self._write()

    def sync(self) -> None:
        if self._changed:
            self._write()

    def close(self) -> None:
        self.sync()

    def _write(self) -> None:
        self._path.write_bytes(bytes(self._content))
        self._written, self._changed = time.monotonic(), False
