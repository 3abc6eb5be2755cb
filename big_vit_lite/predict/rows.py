"""Rows of vectors written so that a process killed at any moment loses only its last seconds.

While it is unfinished, OUT has a folder OUT.partial beside it:

    settings.json   what the rows are of
    images.txt      all images that are to be embedded, to name a difference
    vectors         a .npy whose header is not yet true
    paths           a line for each row
    skipped         a line for each image that was left out
    journal         a line for each commit: how many images are done, how long the files were then

A journal's line is written when what it tells of is on the disk. What lies behind it in the files
is cut off when a later process goes on: no row is there twice, none is lost. Nothing is held in
memory but the batch that is being written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from big_vit_lite import storage
from big_vit_lite.config import InputError

EVERY_S = 2.0
"""Seconds between commits: what is lost at most."""
_FILES = ("vectors", "paths", "skipped")


def beside(out: Path, what: str) -> Path:
    """OUT.partial, OUT.paths.txt and so on."""
    return out.with_name(f"{out.name}.{what}")


def npy_header(rows: int, dimension: int, dtype: str) -> bytes:
    """The header of a .npy; equally long for any number of rows."""
    kept = io.BytesIO()
    described = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        kept, {"descr": described, "fortran_order": False, "shape": (rows, dimension)}
    )
    return kept.getvalue()


class Rows:
    """Vectors, their paths and what was left out, on the disk; `begin` or `resume` first.

    Args:
        out: the file that is to be.
        images: that are to be embedded.
        dimension: numbers of a vector.
        dtype: of the stored numbers.
        clock: seconds, for tests.

    Attributes:
        seen: images that are done and committed.
        rows: vectors that are committed.
        skipped: images that were left out, committed.
    """

    def __init__(
        self,
        out: Path,
        images: int,
        dimension: int,
        dtype: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.out, self.work = out, beside(out, "partial")
        self.images, self.dimension, self.dtype = images, dimension, np.dtype(dtype)
        self.seen = self.rows = self.skipped = 0
        self._clock, self._committed = clock, clock()
        self._files: dict[str, Any] = {}
        self._waiting = (0, 0, 0)

    def begin(self, settings: dict[str, Any], paths: Sequence[str]) -> None:
        """An empty folder of work; settings.json, which is written last, says that it is whole."""
        for name in (*_FILES, "journal", "images.txt"):
            (self.work / name).unlink(missing_ok=True)
        (self.work / "vectors").write_bytes(npy_header(0, self.dimension, self.dtype.name))
        (self.work / "paths").touch()
        (self.work / "skipped").touch()
        with open(self.work / "images.txt", "w", encoding="utf-8", newline="") as file:
            file.writelines(f"{json.dumps(path)}\n" for path in paths)
        self._open()
        self.commit()
        storage.replace(self.work / "settings.json", json.dumps(settings, indent=1).encode())

    def resume(self) -> None:
        """What the last whole line of the journal tells, and no more.

        Raises:
            InputError: the files are shorter than they were.
        """
        last, end = self._last()
        if last is None:
            raise InputError(f"{self.work} is damaged: remove it, and start again")
        self.seen, self.rows, self.skipped = last["seen"], last["rows"], last["left_out"]
        self._waiting = (self.seen, self.rows, self.skipped)
        if self.finished:  # some files may have been moved to their places already
            return
        for name in _FILES:
            path = self.work / name
            if not path.exists() or path.stat().st_size < last[name]:
                raise InputError(f"{path} is shorter than it was: remove {self.work}, start again")
            os.truncate(path, last[name])
        os.truncate(self.work / "journal", end)
        self._open()

    @property
    def finished(self) -> bool:
        """Whether all images are done and committed."""
        return self.seen == self.images

    def add(
        self,
        features: np.ndarray,
        paths: Sequence[str],
        skipped: Sequence[str],
        seen: int,
    ) -> None:
        """Rows of a batch, and with them all images up to number `seen` are done.

        Raises:
            OSError: the disk does not take them.
        """
        self._files["vectors"].write(np.ascontiguousarray(features, self.dtype).data)
        self._files["paths"].write("".join(f"{path}\n" for path in paths).encode())
        self._files["skipped"].write("".join(f"{line}\n" for line in skipped).encode())
        _, rows, left_out = self._waiting
        self._waiting = (seen, rows + len(paths), left_out + len(skipped))
        if self._clock() - self._committed >= EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Returns when all that was added is on the disk, and the journal says so."""
        sizes = {}
        for name, file in self._files.items():
            if name != "journal":
                file.flush()
                os.fsync(file.fileno())
                sizes[name] = file.tell()
        seen, rows, left_out = self._waiting
        line = {"seen": seen, "rows": rows, "left_out": left_out, **sizes}
        self._files["journal"].write(f"{json.dumps(line)}\n".encode())
        self._files["journal"].flush()
        os.fsync(self._files["journal"].fileno())
        self.seen, self.rows, self.skipped = seen, rows, left_out
        self._committed = self._clock()

    def close(self) -> None:
        """Lets go of the files; what was not committed is cut off by the next process."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk was told of when it was found
                file.close()
        self._files = {}

    def _open(self) -> None:
        self._files = {
            name: open(self.work / name, "ab")  # noqa: SIM115
            for name in (*_FILES, "journal")
        }

    def _last(self) -> tuple[dict[str, Any] | None, int]:
        """The journal's last whole line, and where it ends; a torn one behind it is nothing."""
        last, end, at = None, 0, 0
        try:
            lines = (self.work / "journal").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return None, 0
        for line in lines:
            at += len(line)
            try:
                read = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n"):
                last, end = read, at
        return last, end


def settings_of(work: Path) -> dict[str, Any] | None:
    """What an unfinished folder is of; None where there is none."""
    try:
        return json.loads((work / "settings.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise InputError(f"{work} is damaged: remove it, and start again") from None


def first_difference(work: Path, paths: Sequence[str]) -> str:
    """Where a list of images is no longer the one in an unfinished folder."""
    for number, (was, now) in enumerate(_both(work, paths), 1):
        if was != now:
            return f"image {number:,} was {was or 'none'} and is {now or 'none'}"
    return ""


def _both(work: Path, paths: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    with open(work / "images.txt", encoding="utf-8", newline="") as file:
        number = -1
        for number, line in enumerate(file):
            yield json.loads(line), paths[number] if number < len(paths) else None
        for path in paths[number + 1 :]:
            yield None, path


def remove(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
