"""What the layouts of Hugging Face transformers share: their config.json and its defaults.

Files keep the names that transformers 4 had in memory; version 5 has others there, and brings them
back in save_pretrained. The tables are of files.
"""

from typing import Any

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import Size
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.preprocessing import METHODS, Preprocessing, from_transformers

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


def preprocessing_of(source: Source) -> Preprocessing | None:
    """What the preprocessor_config.json beside the weights says; None where there is none."""
    about = source.configs.get("preprocessor_config.json")
    return None if about is None else from_transformers(about, source.path)


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


def labels(classes: int | None) -> dict[str, Any]:
    """transformers counts classes by their names."""
    if not classes:
        return {}
    return {
        "id2label": {str(i): f"LABEL_{i}" for i in range(classes)},
        "label2id": {f"LABEL_{i}": i for i in range(classes)},
    }


def preprocessor(found: Preprocessing | None, kind: str) -> dict[str, Any]:
    """{"preprocessor_config.json": ...} as far as the transform is one that transformers has."""
    import ast

    if found is None:
        return {}
    numbers = {name: number for number, name in METHODS.items()}
    about: dict[str, Any] = {
        "image_processor_type": kind, "do_resize": True, "do_rescale": True, "do_normalize": True,
        "rescale_factor": 1 / 255, "image_mean": list(found.mean), "image_std": list(found.std),
        "do_convert_rgb": True,
    }  # fmt: skip
    calls = [ast.parse(part, mode="eval").body for part in found.transform.split("|")[1:]]
    names = [call.func.id for call in calls]
    arguments = [[ast.literal_eval(x) for x in call.args] for call in calls]
    if names == ["patchify"]:
        (patch, budget, *rest), method = arguments[0], PATCHIFY_METHOD
        if calls[0].keywords or not isinstance(patch, int) or rest not in ([], [method]):
            return {}
        about |= {"resample": numbers[method], "patch_size": patch, "max_num_patches": budget}
        return {"preprocessor_config.json": about}
    size, method = (*arguments[0], "bilinear" if names[0] == "resize" else "area")[:2]
    if names not in TRANSFORMS or method not in numbers:
        return {}
    about |= {"resample": numbers[method], "do_center_crop": len(names) == 2}
    about["size"] = {"shortest_edge": size} if names[0] == "resize_small" else _square(size)
    if len(names) == 2:
        about["crop_size"] = _square(arguments[1][0])
    return {"preprocessor_config.json": about}


PATCHIFY_METHOD = "bilinear"
TRANSFORMS = (["resize"], ["resize", "central_crop"], ["resize_small", "central_crop"])


def _square(size: Any) -> dict[str, int]:
    height, width = pair(size)
    return {"height": height, "width": width}
