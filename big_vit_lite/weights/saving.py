"""save: our parameters as files of published layouts, which the libraries they come from load."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from big_vit_lite import models
from big_vit_lite.config import InputError
from big_vit_lite.weights import rules
from big_vit_lite.weights.behaviour import differences
from big_vit_lite.weights.files import Source, Stored
from big_vit_lite.weights.layout import Form, Layout
from big_vit_lite.weights.layouts import find
from big_vit_lite.weights.loading import Loaded, describe
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.sections import Sections

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def save(
    path: str | Path,
    params: Mapping[str, Any],
    sections: Sections,
    layout: str,
    preprocessing: Preprocessing | None = None,
    form: Form | None = None,
    carried: Mapping[str, np.ndarray] | None = None,
    dtype: str | Mapping[str, np.dtype] = "float32",
) -> Path:
    """Writes weights in a published layout, with the JSON files that belong to it.

    Args:
        path: a folder, which is made, or the file itself (.safetensors or .npz as the layout has
            it); JSON files go beside it.
        params: as `load` and training have them, layers stacked or side by side.
        sections: what model they are of.
        layout: name or number of the layout.
        preprocessing: for the JSON files; None: it is left out of them.
        form, carried: as `load` returned them, for the same file again; None: the layout's own.
        dtype: float32, float16 or bfloat16, or types by the file's names, as `load` returns them.

    Returns:
        the file of weights.

    Raises:
        InputError: the layout has no place for a leaf, or cannot say something of the model, so
            that who loads it would compute something else.
    """
    chosen = find(layout)
    if chosen.file is None:
        raise InputError(
            f"{chosen.title} come as torch's pickles, which are not written here: choose another "
            "layout, such as timm, open-clip or transformers-vit."
        )
    form = dict(form or {})
    leaves = _leaves(params)
    _check_leaves(leaves, sections)
    arrays = _arrays(chosen, leaves, sections, form, carried or {})
    arrays = {name: _cast(x, _dtype(dtype, name)) for name, x in arrays.items()}
    found = chosen.configs(sections, preprocessing, form) if chosen.configs else {}
    path = Path(path).expanduser()
    file = path if path.suffix in (".safetensors", ".npz") else path / chosen.file
    if file.suffix != Path(chosen.file).suffix:
        raise InputError(f"{path}: {chosen.title} is written as {Path(chosen.file).suffix}.")
    _check_meaning(chosen, file, arrays, found, sections)
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, content in found.items():
        _replace(
            file.parent / name,
            lambda out, content=content: out.write_text(json.dumps(content, indent=2) + "\n"),
        )
    _replace(file, lambda out: _write(out, arrays))
    return file


def save_again(path: str | Path, loaded: Loaded, params: Mapping[str, Any] | None = None) -> Path:
    """What was loaded, or other parameters of the same model, in the layout and types it had."""
    return save(
        path,
        loaded.params if params is None else params,
        loaded.sections,
        loaded.layout,
        loaded.preprocessing,
        loaded.form,
        loaded.carried,
        loaded.dtypes,
    )


def _leaves(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = jax.tree_util.tree_leaves_with_path(models.unstack_layers(dict(params)))
    return {"/".join(entry.key for entry in path): np.asarray(x) for path, x in flat}


def _check_leaves(leaves: Mapping[str, np.ndarray], sections: Sections) -> None:
    wanted = {name: tuple(x.shape) for name, x in sections.leaves().items()}
    given = {name: x.shape for name, x in leaves.items()}
    rules.check(given, wanted, "the parameters are not those of the model in the sections:")


def _arrays(
    layout: Layout,
    leaves: Mapping[str, np.ndarray],
    sections: Sections,
    form: Form,
    carried: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    table = layout.rules(sections, form)
    try:
        arrays = rules.write(table, leaves)
    except InputError as error:
        raise InputError(f"{layout.title} cannot hold these weights: {error}.") from None
    fill = layout.filler(sections, form) if layout.filler else {}
    return fill | dict(carried) | arrays


def _dtype(dtype: str | Mapping[str, np.dtype], name: str) -> np.dtype:
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(f"{dtype!r} is no type of weights: use {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    return dtype.get(name, DTYPES["float32"])


def _cast(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Only floats change their type: a count stays a count."""
    whole = np.issubdtype(x.dtype, np.integer) or x.dtype == bool
    return np.array(x, x.dtype if whole else dtype, order="C")


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    if path.name.endswith(".npz"):
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    else:
        save_file(dict(arrays), path, metadata={"format": "pt"})  # transformers asks for it


def _replace(path: Path, write) -> None:
    """Writes beside the file and then renames, so that a file is whole or not there."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _check_meaning(
    layout: Layout,
    file: Path,
    arrays: Mapping[str, np.ndarray],
    configs: Mapping[str, Any],
    sections: Sections,
) -> None:
    """Raises InputError unless what is about to be written reads as the same model."""
    stored = {k: Stored(x.shape, x.dtype, lambda x=x: x) for k, x in arrays.items()}
    source = Source(file, stored, json.loads(json.dumps(configs)))
    described = describe(layout, source)
    if lost := differences(sections, described.sections):
        raise InputError(
            f"{layout.title} cannot say {'; '.join(lost)}: whoever loads it would compute "
            "something else. Choose another layout."
        )
