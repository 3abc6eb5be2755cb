"""safetensors: one file, or several with an index.json that says which array is in which."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from big_vit_lite.config import InputError
from big_vit_lite.weights.files.stored import BFLOAT16, Stored

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The arrays of one file by name; values come from the mapped file when asked for.

    Raises:
        InputError: the file is cut off or damaged, or holds a type that NumPy has not.
    """
    try:
        opened = safe_open(path, framework="np")
        names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is no whole safetensors file ({error}): it was cut off or damaged on the "
            "way; fetch it again."
        ) from None
    return {name: _stored(path, opened, name) for name in names}


def _stored(path: Path, opened, name: str) -> Stored:
    about = opened.get_slice(name)
    kind = about.get_dtype()
    if kind not in DTYPES:
        raise InputError(
            f"{path}: {name} is of type {kind}, which is not read here: save the file in float32, "
            "bfloat16 or float16."
        )
    return Stored(tuple(about.get_shape()), DTYPES[kind], lambda: opened.get_tensor(name))


def read_shards(index: Path, read=read_safetensors) -> dict[str, Stored]:
    """All arrays that an index.json names, from the files beside it.

    Args:
        read: what reads one shard, by default as safetensors.

    Raises:
        InputError: the index is no such index, or a shard or an array in it is missing.
    """
    try:
        where = json.loads(index.read_text())["weight_map"]
        shards = {name: set() for name in where.values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f'{index} is no index of shards (JSON with "weight_map": name -> file): fetch it again.'
        ) from None
    for name, shard in where.items():
        shards[shard].add(name)
    found: dict[str, Stored] = {}
    for shard, names in sorted(shards.items()):
        file = index.parent / shard
        if Path(shard).name != shard or not file.is_file():
            raise InputError(f"{index} names the shard {shard}, which is not beside it: fetch it.")
        held = read(file)
        if lost := sorted(names - held.keys()):
            raise InputError(
                f"{index} says that {lost[0]} is in {shard}, and it is not: the two are of "
                "different models; fetch both again."
            )
        found |= {name: held[name] for name in names}
    return found
