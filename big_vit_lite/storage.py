"""Where runs write: folders of this machine, and gs:// through fsspec.

A Place is a pathlib.Path or, for a URL, an ObjectPath with those of its methods that runs use. An
object store has no folders, renames, appends or locks; it has objects, which are there whole or not
at all, for every reader from the moment their writing ends. What needs one of the former is done by
a function here that knows both. Whatever the store's own library raises is an OSError.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

_LIBRARIES = {"gs": ("gcsfs", "gcsfs>=2025.3,<2028")}
_PART = 8 << 20
_URL = re.compile(r"(\w{2,}):/")


class ObjectPath:
    """An object, or what objects share as the beginning of their names, written as a folder.

    It is no os.PathLike on purpose: `open` would make a folder called "gs:" of it.
    """

    def __init__(self, system: Any, protocol: str, inner: str):
        """Use `place`.

        Args:
            system: the fsspec file system.
            protocol: before "://".
            inner: bucket and name, without a slash at either end.
        """
        self._system, self._protocol, self._inner = system, protocol, inner

    def __str__(self) -> str:
        return f"{self._protocol}://{self._inner}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self._system, self._protocol, f"{self._inner}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self._inner).name

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self._system, self._protocol, str(PurePosixPath(self._inner).parent))

    def is_file(self) -> bool:
        with self._reached():
            return self._system.isfile(self._inner)

    def is_dir(self) -> bool:
        """Whether there is an object below this name."""
        with self._reached():
            return self._system.isdir(self._inner)

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and folders directly below; the listing is made at once."""
        with self._reached():
            found = self._system.ls(self._inner, detail=False)
        names = (PurePosixPath(path).name for path in found if path.strip("/") != self._inner)
        return (self / name for name in names)

    def size(self) -> int:
        with self._reached():
            return self._system.info(self._inner)["size"]

    def read_bytes(self) -> bytes:
        with self._reached():
            return self._system.cat_file(self._inner)

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Replaces the object, whole."""
        with self._reached():
            self._system.pipe_file(self._inner, data)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def generation(self) -> int:
        """The store's number of what the object now holds; 0 where it is not there."""
        try:
            with self._reached():
                return int(self._system.info(self._inner)["generation"])
        except FileNotFoundError:
            return 0

    def write_if(self, data: bytes, generation: int) -> int | None:
        """Writes the object if it still is of this generation (0: not there).

        The store decides, for one of several writers. One whose request was answered, but whose
        answer was lost, is told that it was not the first.

        Returns:
            The new generation, None where another writer was first.
        """
        bucket, _, name = self._inner.partition("/")
        with contextlib.suppress(FileExistsError), self._reached():
            written = self._system.call(
                "POST",
                self._system.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o",
                bucket,
                uploadType="media",
                name=name,
                ifGenerationMatch=generation,
                headers={"Content-Type": "application/octet-stream"},
                data=data,
                json_out=True,
            )
            return int(written["generation"])
        return None

    def unlink_if(self, generation: int) -> bool:
        """Removes the object if it still is of this generation; whether it was."""
        bucket, _, name = self._inner.partition("/")
        with contextlib.suppress(FileExistsError, FileNotFoundError), self._reached():
            self._system.call("DELETE", "b/{}/o/{}", bucket, name, ifGenerationMatch=generation)
            return True
        return False

    @contextlib.contextmanager
    def open(self, mode: str = "r") -> Iterator[IO]:
        """As a file, "r", "rb", "w" or "wb", for a `with`; what is written is there at its end."""
        if mode in ("r", "rb"):
            with io.BufferedReader(_Reader(self), _PART) as file:
                yield file if mode == "rb" else io.TextIOWrapper(file, "utf-8")
            return
        kept = io.BytesIO() if mode == "wb" else io.StringIO()
        yield kept
        content = kept.getvalue()
        self.write_bytes(content if isinstance(content, bytes) else content.encode())

    def read_part(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to, and without, `end`."""
        with self._reached():
            return self._system.cat_file(self._inner, start, end)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._reached():
                self._system.rm_file(self._inner)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders are but names of objects."""

    def below(self) -> dict[str, int]:
        """{name relative to this one: bytes} of every object below, sorted."""
        with self._reached():
            found = self._system.find(self._inner, detail=True)
        start = len(self._inner) + 1
        return {path.lstrip("/")[start:]: found[path]["size"] for path in sorted(found)}

    def remove_below(self) -> None:
        """Removes every object below; there may be none."""
        with contextlib.suppress(FileNotFoundError), self._reached():
            self._system.rm(self._inner, recursive=True)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            text = "there is no such object, or no such bucket"
            raise FileNotFoundError(errno.ENOENT, text, str(self)) from None
        except OSError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines()
            text = lines[0][:200] if lines else type(error).__name__
            raise OSError(errno.EIO, text, str(self)) from error


Place = Path | ObjectPath


class _Reader(io.RawIOBase):
    """An object read from its beginning to its end, a part a request."""

    def __init__(self, path: ObjectPath):
        self._path, self._at, self._size = path, 0, path.size()

    def readable(self) -> bool:
        return True

    def readall(self) -> bytes:
        start, self._at = self._at, self._size
        return self._path.read_part(start, self._size) if start < self._size else b""

    def readinto(self, buffer) -> int:
        end = min(self._size, self._at + len(buffer))
        data = self._path.read_part(self._at, end) if self._at < end else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def place(path: str | Place) -> Place:
    """Reads a path or a URL; nothing is looked at. pathlib's "gs:/bucket" is one, too.

    Raises:
        ValueError: a URL of another kind than gs://, or the library for it is missing. The text
            goes behind the name of what was given.
    """
    if isinstance(path, ObjectPath):
        return path
    text = str(path)
    if not (match := _URL.match(text)):
        return Path(path)
    protocol = match[1]
    if protocol not in _LIBRARIES:
        raise ValueError("wants a folder of this machine or gs://BUCKET/FOLDER")
    inner = text[match.end() :].strip("/")
    if not inner:
        raise ValueError("names no bucket; wants gs://BUCKET/FOLDER")
    library, requirement = _LIBRARIES[protocol]
    if importlib.util.find_spec(library) is None:
        raise ValueError(f'needs a library that is missing: pip install "{requirement}"')
    return ObjectPath(_system(protocol), protocol, inner)


def _system(protocol: str) -> Any:
    """The file system, which remembers no listings: other processes write there, too."""
    import fsspec

    # For the one that Orbax makes for itself as well.
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem(protocol)


def is_store(place: Place) -> bool:
    """Whether it is on an object store."""
    return isinstance(place, ObjectPath)


def replace(place: Place, data: bytes) -> None:
    """Writes a file whole and durably: readers see the one before or this one, never a part."""
    if isinstance(place, ObjectPath):
        place.write_bytes(data)
        return
    temporary = _temporary(place)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place)
    sync_folder(place.parent)


def check_replaceable(place: Path) -> None:
    """Tries, without leaving a trace, what `replace` does to a local file, bar a full disk.

    Raises:
        OSError: as `replace` would.
    """
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
    temporary = _temporary(place)
    temporary.open("ab").close()
    temporary.unlink()


def _temporary(place: Path) -> Path:
    return place.with_name(f"{place.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Returns when the names in a local folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(folder: Place) -> dict[str, int]:
    """{name relative to the folder: bytes} of every file in it and its folders, sorted."""
    if isinstance(folder, ObjectPath):
        return folder.below()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def remove_tree(folder: Place) -> None:
    """Removes a folder with all that is in it."""
    if isinstance(folder, ObjectPath):
        folder.remove_below()
    else:
        shutil.rmtree(folder)


def copy_tree(source: Path, target: ObjectPath) -> None:
    """Copies a local folder's files to a store, under the same names."""
    for name in files_below(source):
        (target / name).write_bytes((source / name).read_bytes())
