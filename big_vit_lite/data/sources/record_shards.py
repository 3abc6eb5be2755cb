"""Random access to the raw records of many ArrayRecord shards, from any thread and process."""

from __future__ import annotations

import bisect
import json
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

from big_vit_lite.config import InputError
from big_vit_lite.data import files, records

OPEN_SHARDS = (
    256  # kept open at a time; opening one takes 0.1 ms, and systems allow some 1,000 files
)
# No readahead, as grain's own data source asks: every read is of one record. Reading one at a time
# is as fast as reading many at once (60,000 a second of 30 kB from memory, on one core).
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 1 << 15


class RecordShards:
    """The records of several shards as one sequence of bytes.

    Args:
      paths: local files, in order.

    Raises:
      InputError: a shard that is no ArrayRecord file, is truncated, or has other records or bytes
        than checksums.json beside it says.
    """

    def __init__(self, paths: list[str], where: str):
        self.paths = paths

        def count(path: str) -> int:
            try:
                return _open(path).num_records()
            except (RuntimeError, OSError) as error:
                raise InputError(
                    f"{where}.path: {path} cannot be read as ArrayRecord ({files.why(error)}); "
                    "copy it again"
                ) from error

        with ThreadPoolExecutor(16) as pool:  # network disks answer slowly, and all at once
            self.sizes = list(pool.map(count, paths))
        self._ends = list(accumulate(self.sizes))
        self._require_unchanged(where)
        self._open_none()

    def _open_none(self) -> None:
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_none()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> bytes:
        """Record `i`; empty where its shard was cut short after it was opened.

        Raises:
          RuntimeError, OSError: its bytes have changed (each record has a checksum), or its shard
            is gone.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard, row = self._place(i)
        return self._reader(shard).read([row])[0]

    def name_of(self, i: int) -> str:
        shard, row = self._place(i)
        return f"{self.paths[shard]}, record {row}"

    def _place(self, i: int) -> tuple[int, int]:
        """Shard and row in it."""
        shard = bisect.bisect_right(self._ends, i)
        return shard, i - (self._ends[shard] - self.sizes[shard])

    def _reader(self, shard: int) -> Any:
        """Open reader of a shard. One that is let go stays open while a thread reads from it."""
        with self._lock:
            reader = self._readers.get(shard)
            if reader is None:
                reader = self._readers[shard] = _open(self.paths[shard])
                if len(self._readers) > OPEN_SHARDS:
                    self._readers.popitem(last=False)
            self._readers.move_to_end(shard)
            return reader

    def _require_unchanged(self, where: str) -> None:
        known = _checksums(files.parent(self.paths[0]), where)
        for path, size in zip(self.paths, self.sizes, strict=True):
            said = known.get(files.name_of(path), {})
            found = {"bytes": os.path.getsize(path), "records": size}
            for what in found:
                if said.get(what, found[what]) != found[what]:
                    raise InputError(
                        f"{where}.path: {path} has {found[what]:,} {what} and "
                        f"{records.CHECKSUMS} says {said[what]:,}; copy both again "
                        "(tools/prepare.py --verify checks every byte)"
                    )


def _open(path: str) -> Any:
    """A reader, which several threads may use at once (its reads are pread).

    Raises:
      RuntimeError, OSError: the file is not there, is truncated or is something else.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    with open(path, "rb"):  # ArrayRecord itself says nothing about a file that is not there
        pass
    reader = ArrayRecordReader(path, options=_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES)
    if not reader.ok():
        raise RuntimeError("it is no ArrayRecord file, or was cut short")
    return reader


def _checksums(folder: str, where: str) -> dict[str, dict[str, Any]]:
    """Records and bytes by file name out of checksums.json, empty where there is none."""
    file = files.join(folder, records.CHECKSUMS)
    if not files.exists(file):
        return {}
    try:
        return dict(json.loads(files.read(file))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{where}.path: {file} does not hold checksums of shards; copy it again"
        ) from None
