"""torch's files written without torch, opcode by opcode, as torch.save writes them.

So default tests read the published layouts of OpenAI, DINO, DINOv2 and MAE, and what no library
would write: pickles with code, tensors that reach beyond their values. An `extra` test holds
torch.load to the same files.
"""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): b"FloatStorage",
    np.dtype(np.float16): b"HalfStorage",
    np.dtype(ml_dtypes.bfloat16): b"BFloat16Storage",
    np.dtype(np.int64): b"LongStorage",
}
ORDERED = b"ccollections\nOrderedDict\n)R"


class Raw(bytes):
    """Opcodes that stand in a pickle as they are."""


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def _numbers(values) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


class Writer:
    """Opcodes of nested dicts of arrays; `storages` are their values in order."""

    def __init__(self, legacy: bool = False):
        self.storages: list[np.ndarray] = []
        self.legacy = legacy

    def value(self, x: Any) -> bytes:
        if isinstance(x, Raw):
            return x
        if isinstance(x, dict):
            items = b"".join(_text(k) + self.value(v) for k, v in x.items())
            return ORDERED + b"(" + items + b"u"
        if isinstance(x, int):
            return _number(x)
        return self.tensor(np.asarray(x))

    def tensor(self, x: np.ndarray, offset: int = 0, strides=None) -> bytes:
        if strides is None:
            flat = np.ascontiguousarray(x).reshape(-1)
            strides = [s // x.itemsize for s in np.ascontiguousarray(x).strides][: x.ndim]
        else:
            flat = x.reshape(-1)
        return self.view(flat, offset, x.shape, strides)

    def view(self, flat: np.ndarray, offset: int, shape, strides) -> bytes:
        key = str(len(self.storages))
        self.storages.append(flat)
        kind = b"ctorch\n" + STORAGES[flat.dtype] + b"\n"
        legacy = b"N" if self.legacy else b""
        storage = (
            b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _number(flat.size)
            + legacy + b"tQ"
        )  # fmt: skip
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(offset) + _numbers(shape)
            + _numbers(strides) + b"\x89" + ORDERED + b"tR"
        )  # fmt: skip

    def script(self, attributes: dict[str, Any], name: str = "Model") -> bytes:
        """A module of TorchScript; dicts are modules in it."""
        items = b"".join(
            _text(k) + (self.script(v, k) if isinstance(v, dict) else self.value(v))
            for k, v in attributes.items()
        )
        return f"c__torch__.{name}\n{name.title()}\n".encode() + b")\x81}(" + items + b"ub"


def pickled(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


def save_archive(path: Path, root: Any, script: bool = False) -> Path:
    """torch.save's zip archive of nested dicts of arrays, or TorchScript's of modules."""
    writer = Writer()
    opcodes = writer.script(root) if script else writer.value(root)
    return save_parts(path, pickled(opcodes), writer.storages)


def save_parts(path: Path, data: bytes, storages: list[np.ndarray]) -> Path:
    folder = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{folder}/data.pkl", data)
        archive.writestr(f"{folder}/byteorder", "little")
        for i, values in enumerate(storages):
            archive.writestr(f"{folder}/data/{i}", values.tobytes())
        archive.writestr(f"{folder}/version", "3\n")
    return path


def save_legacy(path: Path, root: Any) -> Path:
    """The layout of torch before 1.6."""
    writer = Writer(legacy=True)
    opcodes = writer.value(root)
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001}]
    parts = [pickle.dumps(x, protocol=2) for x in head] + [pickled(opcodes)]
    parts.append(pickle.dumps([str(i) for i in range(len(writer.storages))], protocol=2))
    for values in writer.storages:
        parts.append(struct.pack("<q", values.size) + values.tobytes())
    path.write_bytes(b"".join(parts))
    return path
