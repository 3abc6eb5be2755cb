"""Labels of records that have no table of their own: read once, then kept in the user's cache.

Without it every start of a run with a sampler, or with a part by class, would read all records of
a data set, images included. An entry is found by the names and fingerprints of all shards, so that
a changed shard is read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable

from big_vit_lite.data import files

Label = int | str | None


def cached(shards: Iterable[str], what: str, read: Callable[[], Iterable[Label]]) -> list[Label]:
    """What `read` gives, from ~/.cache/big_vit_lite/labels where it was read before.

    Args:
      shards: paths of all files that hold the labels.
      what: which column of them.
    """
    key = [[os.path.abspath(path), files.fingerprint(path)] for path in shards]
    digest = hashlib.sha256(json.dumps([1, what, key]).encode()).hexdigest()
    file = files.cache_folder() / "labels" / f"{digest[:32]}.json"
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):  # not there, or damaged
        labels = list(read())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(labels))
        temporary.replace(file)
    except OSError:  # a home that is full or read-only costs time only
        pass
    return labels
