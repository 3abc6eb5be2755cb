"""Goldens of tools/record_weights: their files read by us, and outputs compared.

Models run op by op, without jit: all are of the same few shapes, so that hardly anything compiles.
But for ResNets.
"""

import functools
import importlib
import pathlib
import re
import sys
import tempfile

import jax
import numpy as np
from weights import torch_format

from big_vit_lite import models, weights
from big_vit_lite.losses import reconstruction
from big_vit_lite.models.mae import masking
from big_vit_lite.models.sizes import RESNETS
from big_vit_lite.weights.sections import Sections

ROOT = pathlib.Path(__file__).parents[2]
GOLDENS = pathlib.Path(__file__).parent / "goldens"
RECORDER = ROOT / "tools" / "record_weights"
WRITERS = {
    "pth": lambda path, arrays: torch_format.save_archive(path, {"model": arrays}),
    "script": lambda path, arrays: torch_format.save_archive(path, nested(arrays), script=True),
    "npz": lambda path, arrays: np.savez(path, **arrays),
}
SAME, DIFFERENT = 1e-5, 1e-4
LOW = {1e-12: 2.0**-17, 1e-6: 2.0**-10, 1e-5: 2.0**-8}
"""Factor on the embeddings that brings the first norm's variance near its epsilon, as recorded."""
EMBEDDINGS = re.compile(
    r"((img|txt|encoder)/)?(cls|dist|registers|pos_embedding|embedding/.*|Embed_0/.*)"
    r"|decoder/(embed/.*|mask_token|pos_embedding)"
)
INPUTS = ("images", "tokens", "noise", "positions", "mask")
"""Names of a case's inputs; all others are outputs."""


def nested(arrays: dict[str, np.ndarray]) -> dict:
    """Modules of TorchScript from names with dots."""
    root: dict = {}
    for name, x in arrays.items():
        *above, last = name.split(".")
        node = root
        for part in above:
            node = node.setdefault(part, {})
        node[last] = x
    return root


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def unpack(arrays: dict[str, np.ndarray], folder: pathlib.Path) -> pathlib.Path:
    """The files in a golden, as the source library wrote them; of houses without a library, a torch
    archive or an .npz of the arrays and names that are recorded."""
    for kind, save in WRITERS.items():
        held = {
            k.removeprefix(f"{kind}/"): x for k, x in arrays.items() if k.startswith(f"{kind}/")
        }
        if held:
            save(folder / f"weights.{kind}", held)
            return folder / f"weights.{kind}"
    for name, content in arrays.items():
        if name.startswith("file/"):
            (folder / name.removeprefix("file/")).write_bytes(content.tobytes())
    return folder


KNOWN = {
    "L07": {"heads": 4},
    "L17": {"heads": 4},
    "L18": {"heads": 4},
    "L19": {"heads": 4},
    "L20": {"heads": 4},
    "L22": {"heads": 4, "decoder_heads": 2, "mask_ratio": 0.5},
}
"""Heads of tiny models, where the file does not say them, by the layout's number."""


@functools.cache
def loaded(name: str) -> weights.Loaded:
    return load(name, golden(name))


def load(name: str, arrays: dict[str, np.ndarray]) -> weights.Loaded:
    with tempfile.TemporaryDirectory() as folder:
        path = unpack(arrays, pathlib.Path(folder))
        return weights.load(path, known=KNOWN.get(name[:3]))


def run(
    sections: Sections, params: dict, arrays: dict, case: str, tower: str = ""
) -> dict[str, np.ndarray]:
    """Everything that the model, or one tower of a pair, img or txt, makes of a case's inputs, by
    the goldens' names."""
    model = sections.build("cpu", remat="none", scan=False)
    images = arrays[f"{case}/images"]
    variables = {"params": params}
    noise = arrays.get(f"{case}/noise")
    if sections.model.max_patches:
        images = models.Patches(images, arrays[f"{case}/positions"], arrays[f"{case}/mask"])
    if sections.family == "mae":
        return run_mae(model, sections.reconstruction, variables, images, noise)
    if sections.family == "vit" and noise is not None:
        found = masking(noise, MASK_RATIO)
        _, out = model.apply(variables, images, capture=("blocks",), kept=found.kept)
        return out | {"hidden": found.hidden}
    if sections.family == "vit":
        logits, out = model.apply(variables, images, capture=("blocks",))
        return out | {"logits": logits}
    images = None if tower == "txt" else images
    tokens = None if tower == "img" else arrays[f"{case}/tokens"]
    apply = whole(model) if sections.model.variant in RESNETS and not tower else model.apply
    embeddings, out = apply(variables, images, tokens, capture=("blocks",))
    features = {"img/features": embeddings.image, "txt/features": embeddings.text}
    out |= {name: x for name, x in features.items() if x is not None}
    return out if tower else out | {"logits": embeddings.logits()}


@functools.cache
def whole(model):
    """Compiled in one piece: a ResNet's shapes are no other model's."""
    return jax.jit(model.apply, static_argnames="capture")


MASK_RATIO = 0.5
"""Of an encoder that is recorded alone, whose section does not say it."""


def run_mae(model, section, variables: dict, images, noise) -> dict[str, np.ndarray]:
    """Blocks, pixels, and the mean of the images' losses."""
    pixels, out = model.apply(variables, images, noise, capture=("blocks",))
    patches = models.patchify(images, model.encoder.patch)
    patches = patches.reshape(pixels.shape)
    loss = reconstruction.hidden_patches(pixels, patches, out["hidden"], section.normalize)
    return out | {"pixels": pixels, "loss": loss.mean()}


def params_for(loaded: weights.Loaded, case: str) -> dict:
    """The parameters, their embeddings scaled as the recording did for case "low"."""
    if case != "low":
        return loaded.params
    sections = loaded.sections
    factor = LOW[(sections.text or sections.model).norm_eps]
    resnet = "conv_0" in loaded.params.get("img", {})

    def scaled(path, x):
        name = "/".join(entry.key for entry in path)
        out = resnet and name.startswith("img/")
        return x * factor if EMBEDDINGS.fullmatch(name) and not out else x

    return jax.tree_util.tree_map_with_path(scaled, loaded.params)


def errors(
    sections: Sections, params: dict, arrays: dict, case: str, tower: str = ""
) -> dict[str, float]:
    """Largest difference of each recorded output, of all or one tower's, relative to its largest
    value."""
    out = run(sections, params, arrays, case, tower)
    found = {}
    for name, reference in arrays.items():
        name = name.removeprefix(f"{case}/") if name.startswith(f"{case}/") else ""
        if name and name not in INPUTS and name.startswith(tower):
            ours = np.asarray(out[name], np.float32)
            assert ours.shape == reference.shape, (name, ours.shape, reference.shape)
            found[name] = float(np.abs(ours - reference).max() / np.abs(reference).max())
    return found


def cases(arrays: dict[str, np.ndarray]) -> list[str]:
    return [name.removesuffix("/images") for name in arrays if name.endswith("/images")]


def recorder(name: str = "common"):
    """A module of tools/record_weights, whose folder is on the path as when it runs."""
    sys.path.insert(0, str(RECORDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(RECORDER))


@functools.cache
def records() -> dict:
    """{name of a golden: the function that makes it}; needs the source libraries."""
    recorder().open_torchvision()
    sys.path.insert(0, str(RECORDER))
    kinds = (
        "transformers", "timm", "open_clip", "npz", "mae", "naflex", "hybrid", "classifier",
    )  # fmt: skip
    modules = [f"{x}_models" for x in kinds]
    return {k: record for x in modules for k, record in importlib.import_module(x).RECORDS.items()}
