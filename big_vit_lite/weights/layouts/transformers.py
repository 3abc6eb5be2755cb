"""What the layouts of Hugging Face transformers share: their config.json and its defaults.

Files keep the names that transformers 4 had in memory; version 5 has others there, and brings them
back in save_pretrained. The tables are of files.
"""

from collections.abc import Sequence
from typing import Any

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import Size
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Form
from big_vit_lite.weights.preprocessing import (
    NotUnderstood,
    Preprocessing,
    from_transformers,
    understood,
)
from big_vit_lite.weights.processors import to_transformers

JSON = ("config.json", "preprocessor_config.json")
"""Files beside the weights."""

ACTIVATIONS = {
    "gelu": "erf",
    "quick_gelu": "quick",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
}
NAMES = {"erf": "gelu", "quick": "quick_gelu", "tanh": "gelu_pytorch_tanh"}

TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": TOWER
    | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "clip_text_model": TOWER
    | {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
    },
    "siglip_vision_model": TOWER
    | {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    "siglip_text_model": TOWER
    | {
        "vocab_size": 32000,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
    "vit": TOWER | {"patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "vit_mae": TOWER
    | {
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "decoder_hidden_size": 512,
        "decoder_num_hidden_layers": 8,
        "decoder_num_attention_heads": 16,
        "decoder_intermediate_size": 2048,
        "mask_ratio": 0.75,
        "norm_pix_loss": False,
    },
    "siglip2_vision_model": TOWER
    | {
        "patch_size": 16,
        "num_patches": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
    "dinov2": TOWER
    | {"patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4},
    "dinov2_with_registers": TOWER
    | {"patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4},
}
"""What a config.json leaves out, as files of the hub do where it is the default."""


def config_of(source: Source, *kinds: str) -> dict[str, Any]:
    """The config.json beside weights of these model_types.

    Raises:
        InputError: it is not there, or is of another model.
    """
    about = source.config(JSON[0])
    kind = about.get("model_type")
    if kind is not None and kind not in kinds:
        raise InputError(
            f"{source.path} holds arrays of {' or '.join(kinds)}, and the config.json beside it is "
            f"of another model, model_type {kind!r}: fetch both again, into a folder of their own."
        )
    return about


def settings(about: dict[str, Any], kind: str) -> dict[str, Any]:
    return DEFAULTS[kind] | {name: value for name, value in about.items() if value is not None}


def size_of(about: dict[str, Any], mlp_dim: int | None = None) -> Size:
    return Size(
        about["hidden_size"],
        about["num_hidden_layers"],
        mlp_dim or about["intermediate_size"],
        about["num_attention_heads"],
    )


def activation(about: dict[str, Any], where: Any) -> str:
    name = about["hidden_act"]
    if name not in ACTIVATIONS:
        raise InputError(
            f"{where}: config.json has hidden_act {name!r}, which the models here have not; they "
            f"have {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def grid_of(about: dict[str, Any]) -> tuple[int, int]:
    size, patch = (pair(about[name]) for name in ("image_size", "patch_size"))
    return size[0] // patch[0], size[1] // patch[1]


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def preprocessing_of(source: Source) -> Preprocessing | NotUnderstood | None:
    """What the preprocessor_config.json beside the weights says; None where there is none."""
    about = source.configs.get(JSON[1])
    if about is None:
        return None
    return understood(lambda: from_transformers(about), about, source.path, JSON[1])


# And back


def tower_settings(section: config.Model | config.Text, size: Size) -> dict[str, Any]:
    """The part of a config.json that image and text towers share."""
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp_dim,
        "hidden_act": NAMES.get(section.activation, "silu"),
        "layer_norm_eps": section.norm_eps,
    }


def image_settings(section: config.Model, size: Size, patch: tuple[int, int]) -> dict[str, Any]:
    side, patch = section.image_size, (patch[0] if patch[0] == patch[1] else list(patch))
    return tower_settings(section, size) | {
        "image_size": list(side) if isinstance(side, tuple) else side,
        "patch_size": patch,
        "num_channels": section.channels,
    }


def labels(names: Sequence[str]) -> dict[str, Any]:
    """Entries of a config.json that name the classes."""
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def numbered(classes: int | None) -> dict[str, Any]:
    """transformers counts classes by their names, and calls those without one LABEL_0 and so on."""
    return labels([f"LABEL_{i}" for i in range(classes)]) if classes else {}


def names_of(about: dict[str, Any]) -> list[Any]:
    """The classes' names in a config.json, none where they are numbers only."""
    found = about.get("id2label") or {}
    names = [found.get(str(i)) for i in range(len(found))]
    return [] if names == [f"LABEL_{i}" for i in range(len(names))] else names


def preprocessor(found: Preprocessing | None, kind: str, form: Form) -> dict[str, Any]:
    """{"preprocessor_config.json": ...}, which is empty where nothing is said."""
    about = form.get("preprocessor") if found is None else to_transformers(found, kind)
    return {JSON[1]: about} if about else {}
