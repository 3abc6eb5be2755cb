"""export: a loaded model into a folder that serves without it."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

import big_vit_lite
from big_vit_lite.config import InputError
from big_vit_lite.pretrained import Pretrained
from big_vit_lite.serving import functions as parts
from big_vit_lite.serving import loading, onnx, stablehlo
from big_vit_lite.serving.functions import Function, Input

FORMATS = ("stablehlo", "onnx")
DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = "weights.safetensors"


def export(
    model: Pretrained,
    folder: str | Path,
    functions: Sequence[str] | None = None,
    format: str = "stablehlo",
    *,
    pixels: str = "uint8",
    dtype: str = "float32",
    platforms: Sequence[str] = stablehlo.PLATFORMS,
) -> dict[str, Any]:
    """Writes functions of a model into a new folder, for any batch size.

    In stablehlo, FUNCTION.stablehlo is what jax.export serialises, a function of (weights by path,
    inputs...), and weights.safetensors holds the weights of all. In onnx, FUNCTION.onnx holds its
    own weights. serving.json says the rest.

    Args:
        model: as `big_vit_lite.load` returned it.
        functions: some of image_features (unit length), text_features (unit length) and logits (of
            a classifier, or of images against texts); None: all that the model has.
        format: stablehlo or onnx (extra `onnx`).
        pixels: uint8 for images as they are decoded and resized, which the function normalises, or
            float32 for what `model.preprocess` returns.
        dtype: that towers compute in, float32, bfloat16 or float16; onnx has float32 alone.
        platforms: of stablehlo: some of cpu, cuda, rocm and tpu.

    Returns:
        What serving.json says.

    Raises:
        InputError: the folder is not empty, an argument is wrong, the model has no such function or
            does not say how pixels are normalised; of onnx: the extra is not installed, or the
            result is not the model.
    """
    folder = Path(folder)
    _check(folder, format, pixels, dtype, platforms)
    made = parts.functions(model, functions, pixels, dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside, then renamed: what is refused or broken off leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        whole = Path(beside) / folder.name
        whole.mkdir()
        about = _write(whole, model, made, format, pixels, dtype, platforms)
        if folder.is_dir():
            folder.rmdir()
        whole.rename(folder)
    return about


def _write(
    folder: Path,
    model: Pretrained,
    made: Sequence[Function],
    format: str,
    pixels: str,
    dtype: str,
    platforms: Sequence[str],
) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if format == "onnx":
        files = onnx.write(folder, made)
    else:
        files, used = stablehlo.write(folder, made, platforms)
        # safetensors writes the memory as it lies, of transposed arrays too.
        save_file({k: np.asarray(x, order="C") for k, x in used.items()}, folder / WEIGHTS)
        more = {"platforms": list(platforms), "weights": WEIGHTS}
    about = {
        "version": loading.VERSION,
        "format": format,
        "functions": {f.name: _said(f, files[f.name]) for f in made},
        **more,
        **described(model, pixels, dtype),
        "sha256": {path.name: loading.sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / loading.ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return about


def _check(folder: Path, format: str, pixels: str, dtype: str, platforms: Sequence[str]) -> None:
    for name, value, known in (
        ("format", format, FORMATS),
        ("pixels", pixels, parts.PIXELS),
        ("dtype", dtype, DTYPES),
        *(("platforms", platform, stablehlo.KNOWN) for platform in platforms),
    ):
        if value not in known:
            raise InputError(f"{name} {value!r} is not one of {', '.join(known)}.")
    if not platforms:
        raise InputError(f"platforms is empty: name some of {', '.join(stablehlo.KNOWN)}.")
    if format == "onnx" and dtype != "float32":
        raise InputError(f"dtype {dtype} is for stablehlo: onnx is written in float32.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: give a new folder, or remove what is in it.")


def _said(function: Function, file: str) -> dict[str, Any]:
    def shown(x: Input) -> dict[str, Any]:
        below = {} if x.below is None else {"below": x.below}
        return {"name": x.name, "shape": list(x.shape), "dtype": x.dtype} | below

    return {
        "file": file,
        "inputs": [shown(x) for x in function.inputs],
        "output": shown(function.output),
    }


def described(model: Pretrained, pixels: str, dtype: str) -> dict[str, Any]:
    """What serving.json says of the model, whatever the format."""
    said = model.preprocessing
    about: dict[str, Any] = {
        "model": model.source,
        "dtype": dtype,
        "images": {
            "pixels": pixels,
            "transform": said and said.transform,
            "mean": said and list(said.mean),
            "std": said and list(said.std),
        },
        "versions": {"big_vit_lite": big_vit_lite.__version__, "jax": jax.__version__},
    }
    if model.sections.text is not None:
        joint, _ = model.model.apply({"params": model.params})
        about["text"] = {"transform": model.text, "fingerprint": _fingerprint(model)}
        about["scale"] = float(joint.scale)
        about["bias"] = 0.0 if joint.bias is None else float(joint.bias)
    elif model.classifies:
        about["class_names"] = model.class_names and list(model.class_names)
        about["loss"] = model.loss
    return about


def _fingerprint(model: Pretrained) -> str | None:
    """Of the vocabulary; None where nothing says it and the vocabulary is not here."""
    if model.fingerprint is not None:
        return model.fingerprint
    try:
        return model.tokenizer.fingerprint
    except InputError:
        return None
