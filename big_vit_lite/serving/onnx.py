"""Functions as ONNX files, by jax2onnx, each proven by onnxruntime before it is kept."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.serving.functions import Function, concrete

TOLERANCE = 1e-4
"""Largest difference from the model's own outputs, relative to their largest: ten times what is
usual, as weights may be anything."""
BATCHES = (1, 3)
"""Batch sizes that are compared; neither was traced, the file's is a symbol."""


def write(folder: Path, functions: Sequence[Function]) -> dict[str, str]:
    """FUNCTION.onnx for each function, with FUNCTION.onnx.data beside it for large weights.

    Returns:
        The files by function.

    Raises:
        InputError: the extra is not installed, jax2onnx cannot translate a function, or what
            onnxruntime makes of the file differs from the model.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f'the format onnx needs {error.name}: pip install "big_vit_lite[onnx]".'
        ) from None
    files = {}
    for function in functions:
        files[function.name] = f"{function.name}.onnx"
        path = folder / files[function.name]
        with _quiet("jax2onnx", "onnx_ir"):
            try:
                jax2onnx.to_onnx(
                    lambda *inputs, f=function: f.apply(f.weights, *inputs),
                    [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in function.inputs],
                    model_name=function.name,
                    return_mode="file",
                    output_path=path,
                    input_names=[x.name for x in function.inputs],
                    output_names=[function.output.name],
                )
            except Exception as error:  # of a library that has no common base of errors
                reason = " ".join(str(error).split())[:200]
                raise InputError(
                    f"jax2onnx {metadata.version('jax2onnx')} cannot translate {function.name} "
                    f"({type(error).__name__}: {reason}): take the format stablehlo."
                ) from None
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        difference = largest_difference(session, function)
        if not difference <= TOLERANCE:
            raise InputError(
                f"onnxruntime's {function.name} differs from the model's by {difference:.1e} "
                f"of its largest value, more than {TOLERANCE}: take the format stablehlo."
            )
    return files


def largest_difference(session, function: Function) -> float:
    """Of a session's outputs from the function's, relative to the largest, for random inputs."""
    rng, worst = np.random.default_rng(0), 0.0
    apply = jax.jit(function.apply)
    for batch in BATCHES:
        inputs = {}
        for x in function.inputs:
            shape = concrete(x, batch)
            drawn = rng.normal(size=shape) if x.below is None else rng.integers(x.below, size=shape)
            inputs[x.name] = drawn.astype(x.dtype)
        wanted = np.asarray(apply(function.weights, *inputs.values()))
        [found] = session.run(None, inputs)
        worst = np.maximum(worst, np.abs(found - wanted).max() / np.abs(wanted).max())
    return float(worst)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Leaves out what libraries print and warn of, about which users can do nothing."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
