"""torch's files: the zip archive of torch.save, TorchScript's, and the layout before torch 1.6."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.weights.files.stored import Stored
from big_vit_lite.weights.files.torch_pickle import Script, Storage, unpickle

WRAPPERS = ("state_dict", "model", "teacher", "module", "model_ema", "params")
"""Where training scripts put the weights in a larger dict; the first that is there counts. Of
DINO's teacher and student, evaluations take the teacher."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch_archive(path: Path) -> dict[str, Stored]:
    """The tensors of a zip archive by name; OpenAI's TorchScript files are such archives, too.

    Raises:
        InputError: the file is damaged, holds no tensors, or a pickle that could run code.
    """
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError(
                f"{path} is a zip archive without torch's data.pkl or NumPy's .npy: it is no file "
                "of weights; unpack it if weights are inside."
            )
        folder = pickles[0].removesuffix("data.pkl")
        order = "<"
        if f"{folder}byteorder" in members:
            order = ">" if archive.read(f"{folder}byteorder").strip() == b"big" else "<"
        content = _read(path, archive, pickles[0])

    def storage(dtype: np.dtype, pid: tuple) -> Storage:
        member = f"{folder}data/{pid[2]}"
        if member not in members:
            raise InputError(f"{path} lacks {member}, which its index names: fetch it again.")

        def values() -> np.ndarray:
            with zipfile.ZipFile(path) as archive:
                return _decode(_read(path, archive, member), dtype, order)

        return dtype, values, _count(pid)

    return _tensors(path, unpickle(content, str(path), storage))


def _read(path: Path, archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{path}: {member} in it is damaged ({error}): fetch it again.") from None


def _count(pid: tuple) -> int:
    count = pid[4]
    if type(count) is not int or count < 0:
        raise ValueError(f"a storage of {count!r} values")
    return count


def _decode(data: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    return values.byteswap() if order == ">" else values


def read_torch_legacy(path: Path) -> dict[str, Stored]:
    """The tensors of a file of torch before 1.6: pickles one after the other, then raw values.

    Raises:
        InputError: the file is damaged, is no such file, or a pickle in it could run code.
    """
    data, where = path.read_bytes(), str(path)
    stream = io.BytesIO(data)
    places: dict[str, int] = {}
    types: dict[str, tuple[np.dtype, int]] = {}

    def storage(dtype: np.dtype, pid: tuple) -> Storage:
        key = str(pid[2])
        if len(pid) > 5 and pid[5] is not None:
            raise InputError(f"{where} holds views of storages: save it again with torch 1.6+.")
        types[key] = dtype, _count(pid)

        def values() -> np.ndarray:
            at = places[key]
            return _decode(data[at : at + types[key][1] * dtype.itemsize], dtype, "<")

        return dtype, values, _count(pid)

    if unpickle(stream, where, storage) != LEGACY_MAGIC:
        raise InputError(
            f"{path} is a Python pickle, but not one of torch.save: it is not read. Get the "
            "weights as safetensors, or save the state dict with torch.save."
        )
    unpickle(stream, where, storage)  # protocol
    system = unpickle(stream, where, storage)
    if not isinstance(system, Mapping) or not system.get("little_endian", True):
        raise InputError(f"{path} was written on a big-endian machine: save it again elsewhere.")
    root, keys = unpickle(stream, where, storage), unpickle(stream, where, storage)
    at = stream.tell()
    for key in map(str, keys if isinstance(keys, list) else []):
        if key not in types:
            raise InputError(f"{path} is damaged: no tensor uses its storage {key}.")
        dtype, count = types[key]
        if at + 8 > len(data) or int.from_bytes(data[at : at + 8], "little") != count:
            raise InputError(f"{path} was cut off before its storage {key}: fetch it again.")
        places[key] = at + 8
        at += 8 + count * dtype.itemsize
    if at > len(data) or types.keys() - places.keys():
        raise InputError(f"{path} was cut off: {at - len(data)} bytes are missing; fetch it again.")
    return _tensors(path, root)


def _tensors(path: Path, root: Any) -> dict[str, Stored]:
    """The weights in what a file holds: a state dict, one inside a larger dict, or a module."""
    if isinstance(root, Script):
        found: dict[str, Stored] = {}
        _walk(root, "", found)
    else:
        found = _state_dict(root)
    if not found:
        raise InputError(f"{path} is a torch file that holds no tensors: is it the right file?")
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): x for name, x in found.items()}
    return found


def _state_dict(node: Any) -> dict[str, Stored]:
    if not isinstance(node, Mapping):
        return {}
    tensors = {str(k): x for k, x in node.items() if isinstance(x, Stored)}
    inside = (_state_dict(node[name]) for name in WRAPPERS if isinstance(node.get(name), Mapping))
    # Beside the weights, training scripts put tensors of their own: a loss, a state of the dice.
    return next((x for x in inside if x), tensors)


def _walk(node: Any, name: str, found: dict[str, Stored]) -> None:
    if isinstance(node, Stored):
        found[name] = node
    elif isinstance(node, Script):
        for key, value in getattr(node, "attributes", {}).items():
            _walk(value, f"{name}.{key}" if name else str(key), found)
