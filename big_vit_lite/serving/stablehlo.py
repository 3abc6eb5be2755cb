"""Functions as jax.export serialises them: StableHLO with a batch of any size."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
from jax import export

from big_vit_lite.serving.functions import Function

KNOWN = ("cpu", "cuda", "rocm", "tpu")
PLATFORMS = ("cpu", "cuda", "tpu")
"""Where an exported function runs, unless it is said: one file is for all of them."""


def write(
    folder: Path, functions: Sequence[Function], platforms: Sequence[str]
) -> tuple[dict[str, str], dict[str, jax.Array]]:
    """FUNCTION.stablehlo for each function.

    Returns:
        The files by function, and the weights that some function needs, by path.
    """
    make = functools.partial(export.export, platforms=tuple(platforms))
    files, used = {}, {}
    for function in functions:
        shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in function.weights.items()}
        exported = make(jax.jit(function.apply))(shapes, *symbolic(function))
        files[function.name] = f"{function.name}.stablehlo"
        (folder / files[function.name]).write_bytes(exported.serialize())
        used |= function.weights
    return files, used


def symbolic(function: Function) -> list[jax.ShapeDtypeStruct]:
    """Shapes of the inputs, their batch sizes as symbols of one scope."""
    names = [x.shape[0] for x in function.inputs]
    sizes = export.symbolic_shape(", ".join(names))
    return [
        jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        for size, x in zip(sizes, function.inputs, strict=True)
    ]
