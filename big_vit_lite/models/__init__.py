"""Models: pure functions of (params, inputs).

Names load on first use: reading a config needs none of them.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
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
        "abstract_params": "init",
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
    },
)
