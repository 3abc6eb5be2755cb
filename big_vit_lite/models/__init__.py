"""Models: pure functions of (params, inputs).

Names load on first use: reading a config needs none of them.
"""

import importlib

_HOME = {
    "SIZES": "sizes",
    "maps_stride": "sizes",
    "parse_variant": "sizes",
    "ViT": "vit",
    "MAE": "mae",
    "Patches": "naflex",
    "bubble": "layers.pipeline",
    "build_model": "build",
    "build_clip": "towers",
    "build_mae": "towers",
    "build_text": "towers",
    "in_stages": "layers.pipeline",
    "with_grad_dtype": "layers.linear",
    "init_params": "init",
    "build_coca": "towers",
    "caption": "captioning",
    "Clip": "clip",
    "RESNETS": "sizes",
    "image_tower": "towers",
    "resnet_grid": "resnet",
    "Coca": "coca",
    "ResNet": "resnet",
    "TextTransformer": "text",
    "normalized": "clip",
    "patchify": "layers.patches",
    "with_statistics": "resnet",
    "stack_layers": "stacking",
    "unstack_layers": "stacking",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
