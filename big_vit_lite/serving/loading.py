"""load: from an exported folder to functions that can be called.

Nothing but jax and NumPy is imported here, and flatbuffers by jax, so that a server needs neither
Flax nor the models of this project.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

ABOUT = "serving.json"
"""What a folder says of itself."""
VERSION = 1
"""Of what ABOUT holds and means."""
DTYPES = {"F32": np.float32, "I32": np.int32}
"""Types of stored weights, by safetensors' names."""
PLATFORMS = {"gpu": "cuda"}
"""Backends that jax.export calls otherwise."""


class BadArtifact(ValueError):
    """An exported folder that cannot be used, or wrong inputs: one sentence."""


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """The functions of an exported model, with their weights on the default device.

        served = load("out")
        served["image_features"](images)
        served(images)  # where there is one function alone

    Attributes:
        about: all that serving.json says: functions with inputs and outputs, preprocessing, class
            names, the text transform, versions.
        functions: by name. Each takes arrays and returns one; it may be used under jax.jit. The
            first call with a batch size compiles for it.
    """

    about: dict[str, Any]
    functions: Mapping[str, Callable[..., jax.Array]]

    def __getitem__(self, name: str) -> Callable[..., jax.Array]:
        if name not in self.functions:
            raise BadArtifact(f"there is no function {name!r}, but {', '.join(self.functions)}.")
        return self.functions[name]

    def __call__(self, *inputs: Any) -> jax.Array:
        if len(self.functions) != 1:
            raise BadArtifact(
                f"there are several functions ({', '.join(self.functions)}): choose one, as in "
                f'served["{next(iter(self.functions))}"](...).'
            )
        return next(iter(self.functions.values()))(*inputs)


def load(folder: str | Path) -> Served:
    """The functions of a folder that `export` wrote in the format stablehlo.

    Raises:
        BadArtifact: the folder is none, is not whole or damaged, is of the format onnx, or was
            exported for other devices or a JAX that is too far from this one.
    """
    folder = Path(folder)
    about = _about(folder)
    if about["format"] != "stablehlo":
        raise BadArtifact(
            f"{folder} holds functions in the format {about['format']}, for onnxruntime: export it "
            "with --format stablehlo for this."
        )
    platform = jax.default_backend()
    platform = PLATFORMS.get(platform, platform)
    if platform not in about["platforms"]:
        raise BadArtifact(
            f"{folder} was exported for {', '.join(about['platforms'])}, and this is {platform}: "
            f"export it with --platforms {platform}."
        )
    for name, digest in about["sha256"].items():
        _verify(folder / name, digest)
    arrays = read_arrays(folder / about["weights"])
    arrays = {path: jax.device_put(x) for path, x in arrays.items()}
    functions = {
        name: _function(folder / said["file"], name, said, arrays)
        for name, said in about["functions"].items()
    }
    return Served(about, functions)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    if not path.is_file():
        raise BadArtifact(
            f"{path} is not there: give a folder that `python -m big_vit_lite.export` finished."
        )
    try:
        about = json.loads(path.read_text())
        version = about["version"]
    except (ValueError, KeyError, TypeError):
        raise BadArtifact(f"{path} is damaged or no such file: export the model again.") from None
    if version != VERSION:
        raise BadArtifact(
            f"{path} is of version {version}, and {VERSION} is read here: export the model again, "
            "or install the big_vit_lite that it names."
        )
    return about


def _verify(path: Path, digest: str) -> None:
    if not path.is_file():
        raise BadArtifact(f"{path} is missing: copy the whole folder, or export the model again.")
    if sha256(path) != digest:
        raise BadArtifact(
            f"{path} is not what was exported (its SHA-256 differs from that in {ABOUT}): copy it "
            "again."
        )


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped: 8 bytes of the header's length, the header as JSON,
    and the arrays' bytes behind each other."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    content = np.memmap(path, np.uint8, "r", offset=8 + length)
    arrays = {}
    for name, said in header.items():
        if name != "__metadata__":
            start, end = said["data_offsets"]
            dtype, shape = np.dtype(DTYPES[said["dtype"]]), said["shape"]
            assert end - start == math.prod(shape) * dtype.itemsize, name
            arrays[name] = content[start:end].view(dtype).reshape(shape)
    return arrays


def _function(path: Path, name: str, said: dict[str, Any], arrays: dict[str, jax.Array]):
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
    except ImportError:
        raise BadArtifact(
            f"{path} is read by jax with flatbuffers, which is not installed: pip install "
            "flatbuffers."
        ) from None
    except Exception as error:  # whatever it is that an older or newer JAX raises
        reason = " ".join(str(error).split())[:200]
        raise BadArtifact(
            f"{path} cannot be read by jax {jax.__version__} ({type(error).__name__}: {reason}): "
            "export the model again with a JAX near this one."
        ) from None
    taken, *_ = jax.tree.unflatten(exported.in_tree, range(exported.in_tree.num_leaves))[0]
    weights = {key: arrays[key] for key in taken}
    compiled = jax.jit(exported.call)
    inputs = said["inputs"]

    def call(*given: Any) -> jax.Array:
        _check(name, inputs, given)
        return compiled(weights, *given)

    call.__name__ = name
    call.__doc__ = signature(said)
    return call


def _check(name: str, inputs: list[dict[str, Any]], given: tuple[Any, ...]) -> None:
    if len(given) != len(inputs):
        raise BadArtifact(
            f"{name} takes {' and '.join(map(_shown, inputs))}, and {len(given)} arrays were given."
        )
    for said, x in zip(inputs, given, strict=True):
        dtype, shape = getattr(x, "dtype", None), getattr(x, "shape", None)
        fits = dtype == said["dtype"] and len(shape) == len(said["shape"])
        fits = fits and all(
            n >= 1 if isinstance(wanted, str) else n == wanted
            for n, wanted in zip(shape, said["shape"], strict=True)
        )
        if not fits:
            found = f"{dtype} {tuple(shape)}" if shape is not None else type(x).__name__
            raise BadArtifact(f"{name} takes {_shown(said)}, and {found} was given.")


def signature(said: dict[str, Any]) -> str:
    """'images uint8 (b, 224, 224, 3) -> features float32 (b, 512)', of a function's words."""
    return f"{', '.join(map(_shown, said['inputs']))} -> {_shown(said['output'])}"


def _shown(said: dict[str, Any]) -> str:
    return f"{said['name']} {said['dtype']} ({', '.join(map(str, said['shape']))})"
