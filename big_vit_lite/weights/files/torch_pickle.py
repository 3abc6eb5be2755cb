"""torch's pickles read without torch, and without running anything that they hold.

A pickle is a program: it may name any function of any installed package and call it. Here names
are never looked up in Python. A short list of them, those that tensors are made of, stands for
functions of this file; a few more, which training scripts leave beside the weights, become empty
stand-ins; every other name is refused.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.weights.files.stored import BFLOAT16, Stored

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(bool),
}
SCRIPT = "__torch__."
"""Where TorchScript keeps the classes of a model."""
INERT = {
    ("argparse", "Namespace"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("pathlib", "PosixPath"),
    ("pathlib", "Path"),
    ("torch", "device"),
    ("torch", "Size"),
    ("torch.jit._pickle", "build_intlist"),
    ("torch.jit._pickle", "build_doublelist"),
    ("torch.jit._pickle", "build_boollist"),
    ("torch.jit._pickle", "build_tensorlist"),
    ("torch.jit._pickle", "restore_type_tag"),
}
"""What training scripts leave beside weights: settings, metrics, paths. Nothing of it is kept."""

Storage = tuple[np.dtype, Callable[[], np.ndarray], int]
"""Type, the function that reads the values, and their number."""


class TensorUnpickler(pickle.Unpickler):
    """Makes `Stored` of tensors, and nothing of anything else.

    Args:
        data: the pickle.
        where: what errors call the file.
        storage: from a storage's type and the persistent id that names it to its values.
    """

    def __init__(self, data: Any, where: str, storage: Callable[[np.dtype, tuple], Storage]):
        super().__init__(data, encoding="utf-8")
        self.where, self.storage = where, storage
        self.names = _known_names(where)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.names:
            return self.names[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name.isidentifier() and name in _TORCH_DTYPES:
            return name
        if module.startswith(SCRIPT):
            return type("Script", (Script,), {})
        if (module, name) in INERT:
            return type("Inert", (_Inert,), {})
        raise InputError(
            f"{self.where} holds the Python object {module}.{name}, for which weights have no use, "
            "and which may run code; nothing was run. Get the weights as safetensors, or save the "
            "state dict alone."
        )

    def persistent_load(self, pid: Any) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError(f"a reference {str(pid)[:60]} that is no storage")
        if not isinstance(pid[1], np.dtype):
            raise pickle.UnpicklingError("a storage without a type")
        return self.storage(pid[1], pid)


_TORCH_DTYPES = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"}


class _Inert:
    """Stands for an object that is not made: takes whatever the pickle does to it."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass


class Script:
    """A module of TorchScript: its attributes, and no code."""

    def __new__(cls, *args):
        return object.__new__(cls)

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module without attributes")
        self.attributes = state


def _known_names(where: str) -> dict[tuple[str, str], Any]:
    """Fresh functions for every file, as a pickle may change attributes of those that it gets."""

    def tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_) -> Stored:
        return _strided(where, storage, offset, tuple(size), tuple(stride))

    def parameter(data: Stored, *_) -> Stored:
        return data

    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): parameter,
    }


def _strided(
    where: str, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> Stored:
    """A view of a storage; one that reaches outside of it would read foreign memory."""
    dtype, values, count = storage
    whole = (offset, *size, *stride)
    sound = len(size) == len(stride) and all(type(n) is int and n >= 0 for n in whole)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=False)) if sound else 0
    if not sound or (0 not in size and last >= count):
        raise InputError(
            f"{where} holds a tensor of shape {size} that reaches beyond its {count} values: the "
            "file is damaged; fetch it again."
        )

    def read() -> np.ndarray:
        flat = values()
        if len(flat) != count:
            raise InputError(
                f"{where} holds {len(flat)} values where {count} were announced: the file was cut "
                "off; fetch it again."
            )
        if 0 in size:
            return np.zeros(size, dtype)
        steps = [s * dtype.itemsize for s in stride]
        view = np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
        return np.array(view, dtype)

    return Stored(size, dtype, read)


def unpickle(data: bytes | io.BufferedIOBase, where: str, storage) -> Any:
    """One object; every fault of the pickle is one sentence.

    Raises:
        InputError: the pickle names what weights have no use for, or is damaged.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        return TensorUnpickler(stream, where, storage).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{where} is no whole torch file ({type(error).__name__}: {error}): it was cut off or "
            "damaged on the way; fetch it again."
        ) from None
