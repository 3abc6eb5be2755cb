"""Files by name, here or on a store: local paths, and URLs such as gs://bucket/folder by fsspec.

Paths are text; "://" makes one a URL. What cannot be reached raises OSError, whatever the store's
own library raises. Local paths are read by the operating system alone: fsspec is not even imported.
Listings leave out names that begin with a dot or with two underscores.
"""

from __future__ import annotations

import glob as local_glob
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from big_vit_lite.config import InputError

_LIBRARIES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def is_url(path: str) -> bool:
    return "://" in path


def is_pattern(path: str) -> bool:
    """Whether the path stands for several: {00000..00099}, {a,b}, * or ?."""
    if not is_url(path) and os.path.exists(path):
        return False
    return "{" in path or _has_wildcard(path)


def _has_wildcard(path: str) -> bool:
    marks = "*" if path.startswith(("http://", "https://")) else "*?"  # there ? begins a query
    return any(mark in path for mark in marks)


def normal(path: str) -> str:
    """The path with ~ resolved and without "file://" or a slash at its end."""
    path = path.removeprefix("file://")
    if not is_url(path):
        return os.path.normpath(os.path.expanduser(path))
    return path.rstrip("/") if not path.endswith("://") else path


def require(path: str, where: str) -> None:
    """The library that reads URLs of this kind is installed.

    Raises:
      InputError: it is not, or the kind is unknown; names the command that installs it.
    """
    if not is_url(path):
        return
    from fsspec.core import url_to_fs

    protocol = path.split("://")[0].split("::")[-1]
    try:
        url_to_fs(path)
    except ImportError as error:
        library = _LIBRARIES.get(protocol)
        hint = f"pip install {library}" if library else _first_line(error)
        raise InputError(
            f"{where}: reading {protocol}:// needs a library that is missing: {hint}"
        ) from None
    except ValueError as error:
        raise InputError(f"{where}: {path} cannot be opened ({_first_line(error)})") from None
    except Exception as error:
        raise InputError(
            f"{where}: {protocol}:// cannot be reached ({_first_line(error)}); "
            "check the address and the credentials"
        ) from error


def join(folder: str, *names: str) -> str:
    if not is_url(folder):
        return os.path.join(folder, *names)
    return "/".join((folder.rstrip("/"), *names))


def parent(path: str) -> str:
    return path.rsplit("/", 1)[0] if is_url(path) else os.path.dirname(path)


def name_of(path: str) -> str:
    """The last part of the path."""
    return path.rstrip("/").rsplit("/", 1)[-1] if is_url(path) else os.path.basename(path)


def exists(path: str) -> bool:
    if not is_url(path):
        return os.path.exists(path)
    with _remote(path) as (system, inner):
        return system.exists(inner)


def is_file(path: str) -> bool:
    if not is_url(path):
        return os.path.isfile(path)
    with _remote(path) as (system, inner):
        return system.isfile(inner)


def is_dir(path: str) -> bool:
    """Whether it is a folder; on object stores, whether anything lies under that name."""
    if not is_url(path):
        return os.path.isdir(path)
    with _remote(path) as (system, inner):
        return system.isdir(inner)


def children(folder: str) -> tuple[list[str], list[str]]:
    """Sorted names of the folders and of the files in `folder`."""
    if not is_url(folder):
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
    else:
        with _remote(folder) as (system, inner):
            entries = system.ls(inner, detail=True)
            found = [
                (name_of(entry["name"]), entry["type"] == "directory")
                for entry in entries
                if entry["name"].strip("/") != inner.strip("/")  # stores list a folder in itself
            ]
    found = sorted(item for item in found if _is_listed(item[0]))
    return [n for n, inside in found if inside], [n for n, inside in found if not inside]


def walk(folder: str) -> list[str]:
    """Sorted paths of all files under `folder`, relative to it; links are followed."""
    found = []
    if not is_url(folder):
        for directory, names, files in os.walk(folder, followlinks=True):
            names[:] = [name for name in names if _is_listed(name)]
            inside = os.path.relpath(directory, folder)
            found += [
                name if inside == "." else os.path.join(inside, name)
                for name in files
                if not name.startswith(".")
            ]
        return sorted(found)
    with _remote(folder) as (system, inner):
        start = len(inner.rstrip("/")) + 1
        for path in system.find(inner):
            *folders, name = path[start:].split("/")
            if all(map(_is_listed, folders)) and name and not name.startswith("."):
                found.append(path[start:])
    return sorted(found)


def _is_listed(name: str) -> bool:
    return not name.startswith((".", "__"))


def expand(pattern: str) -> list[str]:
    """Paths that a pattern names: braces in the order they are written, * and ? sorted.

    Names from braces are given whether or not there are such files.

    Raises:
      ValueError: a range such as {9..0} that is empty.
    """
    if match := _BRACES.search(pattern):
        before, after = pattern[: match.start()], pattern[match.end() :]
        return [path for part in _parts(match[1]) for path in expand(before + part + after)]
    if not _has_wildcard(pattern):
        return [pattern]
    if not is_url(pattern):
        return sorted(local_glob.glob(pattern))
    with _remote(pattern) as (system, inner):
        protocol = pattern[: len(pattern) - len(inner.lstrip("/"))]
        return sorted(protocol + path.lstrip("/") for path in system.glob(inner))


def _parts(text: str) -> list[str]:
    if not (match := _NUMBERS.fullmatch(text)):
        return text.split(",")
    first, last = match.groups()
    if int(first) > int(last):
        raise ValueError(f"{{{text}}} counts down; write the smaller number first")
    width = len(first) if first.startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def fingerprint(path: str) -> str:
    """Text that changes when the file does: its size with its time of change or the store's tag."""
    if not is_url(path):
        return _local_fingerprint(os.stat(path))
    with _remote(path) as (system, inner):
        system.invalidate_cache(inner.rsplit("/", 1)[0])  # listings may be older than the file
        info = system.info(inner)
    tags = ("etag", "ETag", "md5Hash", "mtime", "LastModified", "updated", "created")
    tag = next((str(info[key]) for key in tags if info.get(key)), "")
    return f"{info['size']}-{tag}"


def _local_fingerprint(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def read(path: str) -> bytes:
    """The whole file."""
    if not is_url(path):
        with open(path, "rb") as file:
            return file.read()
    with _remote(path) as (system, inner):
        return system.cat_file(inner)


def open_binary(path: str) -> Any:
    """The file opened for reading in pieces, as a context manager; for pyarrow and for scans."""
    if not is_url(path):
        return open(path, "rb")
    with _remote(path) as (system, inner):
        return system.open(inner, "rb", block_size=8 << 20)


class Changed(OSError):
    """The file is not the one it was when its fingerprint was taken."""


class Ranges:
    """Reads byte ranges of many files, from any thread and, pickled, in any process.

    Up to `keep` local files stay open. A descriptor is closed when the last thread that reads
    from it has let go of it. Stores get one request a range, and one more for the fingerprint when
    a file is read for the first time.
    """

    def __init__(self, keep: int = 128):
        self._keep = keep
        self.__setstate__({"_keep": keep})

    def __getstate__(self) -> dict:
        return {"_keep": self._keep}

    def __setstate__(self, state: dict) -> None:
        self._keep = state["_keep"]
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, path: str, start: int, size: int, expected: str) -> bytes:
        """Bytes [start, start + size), fewer at the end of the file.

        Raises:
          Changed: the file's fingerprint is not `expected`.
          OSError: it cannot be read.
        """
        if is_url(path):
            return self._read_remote(path, start, size, expected)
        descriptor = self._descriptor(path)
        if _local_fingerprint(os.fstat(descriptor.number)) != expected:
            raise Changed(path)
        data = os.pread(descriptor.number, size, start)
        while 0 < len(data) < size:  # some file systems hand over less than was asked for
            more = os.pread(descriptor.number, size - len(data), start + len(data))
            if not more:
                break
            data += more
        return data

    def _descriptor(self, path: str) -> _Descriptor:
        with self._lock:
            if path not in self._open:
                self._open[path] = _Descriptor(path)
                if len(self._open) > self._keep:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return self._open[path]

    def _read_remote(self, path: str, start: int, size: int, expected: str) -> bytes:
        if path not in self._seen:
            self._seen[path] = fingerprint(path)
        if self._seen[path] != expected:
            raise Changed(path)
        with _remote(path) as (system, inner):
            return system.cat_file(inner, start=start, end=start + size)


class _Descriptor:
    """An open file of the operating system, closed when nobody refers to it any more."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


@contextmanager
def _remote(path: str) -> Iterator[tuple[Any, str]]:
    """The store of a URL and the path in it; its library's own errors become OSErrors."""
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(path)
    except (OSError, InputError):
        raise
    except Exception as error:
        raise OSError(0, _first_line(error), path) from error


def why(error: BaseException) -> str:
    """The reason of a failure in a few words, for the brackets of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return (isinstance(error, OSError) and error.strerror) or _first_line(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def cache_folder() -> Path:
    """Where this package keeps what it can compute again; XDG_CACHE_HOME is honoured."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "big_vit_lite"
