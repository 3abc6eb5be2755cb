"""NumPy's .npz, as AugReg, big_vision and vision_transformer publish their weights."""

import zipfile
from pathlib import Path

import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.weights.files.stored import BFLOAT16, Stored


def read_npz(path: Path) -> dict[str, Stored]:
    """The arrays of an .npz by name. bfloat16 lies there as two bytes without a type, "V2".

    Raises:
        InputError: a damaged member, or one that is a pickled object, which is not unpickled.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): _stored(path, archive, name) for name in names}


def _stored(path: Path, archive: zipfile.ZipFile, member: str) -> Stored:
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = header(file)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise _damaged(path, member, error) from None
    if dtype.hasobject:
        raise InputError(
            f"{path}: {member.removesuffix('.npy')} is a pickled Python object, not an array; "
            "objects can run code and are not read: save arrays only."
        )
    two_bytes = dtype.kind == "V" and dtype.itemsize == 2
    if dtype.kind == "V" and not two_bytes:
        raise InputError(
            f"{path}: {member.removesuffix('.npy')} has {dtype.itemsize} bytes a value and no "
            "type; only 2 bytes are known, as bfloat16: save it in float32."
        )

    def read() -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as file:
                values = file[member.removesuffix(".npy")]
        except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise _damaged(path, member, error) from None
        return values.view(BFLOAT16) if two_bytes else values

    return Stored(tuple(shape), BFLOAT16 if two_bytes else dtype, read)


def _damaged(path: Path, member: str, error: Exception) -> InputError:
    return InputError(f"{path}: {member} in it is damaged ({error}): fetch the file again.")
