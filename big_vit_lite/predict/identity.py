"""What makes embeddings: the model by its numbers, how it is computed, how images become its input.

The same weights in another file, or under another name, are the same model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite import models, parallel
from big_vit_lite.pretrained import Pretrained

_SAME_FUNCTION = {"scan", "remat", "attention", "dtype"}
"""Fields of a model that say how it is computed, not what."""
SPACE = ("fingerprint", "transform", "mean", "std")
"""What two sets of embeddings must share to be compared with each other."""


def of_model(model: Pretrained) -> dict[str, Any]:
    """For JSON: where the model is from, its fingerprint, its preprocessing, its precision."""
    said = model.preprocessing
    return {
        "model": model.source,
        "fingerprint": fingerprint(model),
        "transform": said.transform,
        "mean": [float(x) for x in said.mean],
        "std": [float(x) for x in said.std],
        "computed_in": jnp.dtype(_compute_dtype(model)).name,
    }


def fingerprint(model: Pretrained) -> str:
    """Of all parameters and of the fields that say what is computed with them: 16 hex digits."""
    digest = hashlib.sha256()
    sections = [
        None if section is None else section.model_dump(mode="json", exclude=_SAME_FUNCTION)
        for section in model.sections
    ]
    digest.update(json.dumps(sections, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        array = np.ascontiguousarray(leaf)
        name = f"{parallel.path_name(path)} {array.dtype.name} {array.shape}\n"
        digest.update(name.encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def of_paths(paths: Sequence[str]) -> str:
    """Of a list of images, by their paths and order: 16 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.encode() + b"\0")
    return digest.hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    """ "transform was X and is Y, ..." of the keys that differ; empty where none does."""
    told = []
    for key in keys:
        was, now_is = before.get(key), now.get(key)
        if was == now_is:
            continue
        if key == "fingerprint":
            was = f"{before.get('model')} ({was})"
            now_is = f"{now.get('model')} ({now_is})"
        told.append(f"{_NAMES.get(key, key)} was {_shown(was)} and is {_shown(now_is)}")
    return ", ".join(told)


_NAMES = {
    "fingerprint": "the model",
    "transform": "--transform",
    "mean": "--mean",
    "std": "--std",
    "computed_in": "the precision",
    "dtype": "--dtype",
    "images": "the number of images",
    "paths": "the list of images",
}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(f"{x:g}" for x in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _compute_dtype(model: Pretrained) -> Any:
    tower = models.image_tower(model.model)
    return tower.dtype if isinstance(tower, models.ResNet) else tower.block.dtype
