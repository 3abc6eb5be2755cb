"""save: our parameters as files of published layouts, which the libraries they come from load."""

import json
import os
from collections.abc import Mapping, Sequence
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
from big_vit_lite.weights.files.source import SUFFIXES
from big_vit_lite.weights.layout import Form, Layout
from big_vit_lite.weights.layouts import find
from big_vit_lite.weights.loading import Loaded, check, describe
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.sections import Sections
from big_vit_lite.weights.steps import same

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
VOCABULARY = (
    "merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json", "spiece.model",
    "tokenizer.model", "special_tokens_map.json", "bpe_simple_vocab_16e6.txt.gz",
)  # fmt: skip
"""Files of tokenizers, as folders on the hub have them."""


def save(
    path: str | Path,
    params: Mapping[str, Any],
    sections: Sections,
    layout: str,
    preprocessing: Preprocessing | None = None,
    form: Form | None = None,
    carried: Mapping[str, np.ndarray] | None = None,
    dtype: str | Mapping[str, np.dtype] = "float32",
    class_names: Sequence[str] | None = None,
) -> Path:
    """Writes weights in a published layout, with the JSON files that belong to it.

    What is written reads as the same model and the same preprocessing, or nothing is written.

    Args:
        path: a folder, which is made, or the file itself (.safetensors or .npz as the layout has
            it); JSON files go beside it.
        params: as `load` and training have them, layers stacked or side by side.
        sections: what model they are of.
        layout: name or number of the layout.
        preprocessing: for the JSON files; None: it is left out of them. A layout without such files
            (.npz) leaves it out, but is refused where all who read it presume another.
        form, carried: as `load` returned them, for the same file again; None: the layout's own.
        dtype: float32, float16 or bfloat16, or types by the file's names, as `load` returns them.
        class_names: of the head's outputs, in order; None: they are numbers.

    Returns:
        the file of weights.

    Raises:
        InputError: the layout has no place for a leaf, or cannot say something of the model or of
            its preprocessing, so that who loads it would compute something else; or the folder has
            JSON files of another model.
    """
    return _save(path, params, sections, layout, preprocessing, form, carried, dtype, class_names)


def _save(
    path: str | Path, params, sections, layout, preprocessing, form, carried, dtype, class_names,
    others: Mapping[str, bytes] | None = None,
) -> Path:  # fmt: skip
    """As `save`; `others` are more files to lie beside the weights."""
    chosen = find(layout)
    if chosen.file is None:
        raise InputError(
            f"{chosen.title} come as torch's pickles, which are not written here: choose another "
            "layout, such as timm, open-clip or transformers-vit."
        )
    form, sections = dict(form or {}), _whole(sections)
    leaves = _leaves(params)
    _check_leaves(leaves, sections)
    arrays = _arrays(chosen, leaves, sections, form, carried or {})
    arrays = {name: _cast(x, _dtype(dtype, name)) for name, x in arrays.items()}
    found = chosen.configs(sections, preprocessing, form) if chosen.configs else {}
    if class_names is not None:
        found["config.json"] = found.get("config.json", {}) | _names(chosen, sections, class_names)
    path = Path(path).expanduser()
    file = path if path.suffix in (".safetensors", ".npz") else path / chosen.file
    if file.suffix != Path(chosen.file).suffix:
        raise InputError(f"{path}: {chosen.title} is written as {Path(chosen.file).suffix}.")
    _check_meaning(chosen, file, arrays, found, sections, preprocessing)
    beside: dict[str, bytes | None] = dict.fromkeys(chosen.json)
    beside |= {name: (json.dumps(x, indent=2) + "\n").encode() for name, x in found.items()}
    beside |= others or {}
    _check_folder(file, beside)
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        if content is None:  # what an older model in its place said
            (file.parent / name).unlink(missing_ok=True)
        else:
            _replace(file.parent / name, lambda out, content=content: out.write_bytes(content))
    _replace(file, lambda out: _write(out, arrays))
    return file


def save_again(path: str | Path, loaded: Loaded, params: Mapping[str, Any] | None = None) -> Path:
    """What was loaded, or other parameters of the same model, in the layout and types it had.

    The vocabulary files beside a text tower's weights are copied.
    """
    folder = loaded.path.parent
    there = VOCABULARY if loaded.sections.text is not None else ()
    others = {n: (folder / n).read_bytes() for n in there if (folder / n).is_file()}
    return _save(
        path,
        loaded.params if params is None else params,
        loaded.sections,
        loaded.layout,
        loaded.preprocessing,
        loaded.form,
        loaded.carried,
        loaded.dtypes,
        loaded.class_names,
        others,
    )


def _whole(sections: Sections) -> Sections:
    """A square is said by one number: some libraries read no other."""
    side = sections.model.image_size
    if not isinstance(side, tuple) or side[0] != side[1]:
        return sections
    return sections._replace(model=sections.model.model_copy(update={"image_size": side[0]}))


def _names(layout: Layout, sections: Sections, names: Sequence[str]) -> dict[str, Any]:
    """Entries of config.json with the names of classes."""
    if layout.names is None:
        raise InputError(
            f"{layout.title} have no place for names of classes: leave class_names out, or choose "
            "a layout of timm or transformers."
        )
    classes = 0 if sections.text is not None else sections.model.classes or 0
    if isinstance(names, str) or len(names) != classes or not all(map(_is_name, names)):
        raise InputError(
            f"class_names are one string for each of the head's {classes} outputs, and here they "
            f"are {len(names)}, {', '.join(map(repr, names[:3]))} and so on."
        )
    return layout.names[1](names)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name)


def _check_folder(file: Path, beside: Mapping[str, bytes | None]) -> None:
    """Raises InputError where a file beside the weights is of another model: it would be lost, or
    read as this one's."""
    folder = file.parent
    weights = [p.name for p in folder.glob("*") if p.suffix in SUFFIXES and p != file]
    if file.is_file() and not weights:
        return  # the same model's place
    for name, content in beside.items():
        path = folder / name
        if path.is_file() and path.read_bytes() != content:
            whose = f"that of {', '.join(sorted(weights)[:3])}" if weights else "not this model's"
            wants = "none" if content is None else "its own"
            raise InputError(
                f"{path} is {whose}, and {file.name} needs {wants}: "
                "save each model into a folder of its own."
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
    try:
        table = layout.rules(sections, form)
    except AttributeError:  # of a section that the model has not
        raise _other_family(layout, sections) from None
    try:
        arrays = rules.write(table, leaves)
    except InputError as error:
        raise InputError(f"{layout.title} cannot hold these weights: {error}.") from None
    fill = layout.filler(sections, form) if layout.filler else {}
    return fill | dict(carried) | arrays


def _other_family(layout: Layout, sections: Sections) -> InputError:
    kinds = {"vit": "one image tower", "mae": "a masked autoencoder", "coca": "CoCa",
             "clip": "an image tower and a text tower"}  # fmt: skip
    return InputError(
        f"{layout.title} cannot hold {kinds[sections.family]}, as this model is: choose another "
        "layout."
    )


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
    preprocessing: Preprocessing | None,
) -> None:
    """Raises InputError unless what is about to be written reads as the same model, and the same
    preprocessing."""
    stored = {k: Stored(x.shape, x.dtype, lambda x=x: x) for k, x in arrays.items()}
    source = Source(file, stored, json.loads(json.dumps(configs)))
    try:
        described = describe(layout, source)
        lost = differences(sections, described.sections)
        if not lost:
            check(layout, source, described)
    except InputError as error:
        if not layout.fits(source):
            raise _other_family(layout, sections) from None
        raise InputError(
            f"{layout.title} cannot say all of this model, choose another layout; as a file of "
            f"theirs it would be told: {error}"
        ) from None
    if lost:
        raise InputError(
            f"{layout.title} cannot say {'; '.join(lost)}: whoever loads it would compute "
            "something else. Choose another layout."
        )
    said = described.preprocessing
    silent = layout.configs is None and said is None
    if preprocessing is not None and not silent and not same(preprocessing, said):
        read = "not at all" if not isinstance(said, Preprocessing) else (
            f"as {said.transform!r} with mean {said.mean} and standard deviation {said.std}"
        )  # fmt: skip
        raise InputError(
            f"{layout.title} cannot say how images are prepared here, {preprocessing.transform!r} "
            f"with mean {preprocessing.mean} and standard deviation {preprocessing.std}: whoever "
            f"loads it would read it {read}. Save with preprocessing=None and hand the transform "
            "on yourself, or choose another layout."
        )
