"""From a config section to an image tower with every "auto" resolved."""

import jax

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.layers.attention import choose_attention
from big_vit_lite.models.layers.blocks import BlockSpec
from big_vit_lite.models.layers.stem import GROUPS, StemSpec
from big_vit_lite.models.naflex import NaFlexViT
from big_vit_lite.models.resnet import ResNet, resnet_grid
from big_vit_lite.models.sizes import RESNETS, Size, parse_variant
from big_vit_lite.models.vit import ViT

RESNET_FIELDS = (
    "variant", "width", "heads", "stages", "batch_norm", "image_size", "channels", "classes",
    "dtype", "remat", "attention", "init", "scan",
)  # fmt: skip
"""Fields of the section that mean something for a ResNet, or change nothing."""
STEM_FIELDS = ("stages", "stem_width", "stem_norm_eps", "stem_standardize")
"""Fields of the section that mean something for a hybrid only, or a ResNet."""


def build_model(
    model: config.Model,
    image_shape: tuple[int, int, int],
    classes: int,
    platform: str | None = None,
) -> ViT | ResNet:
    """The image tower of a config for images of (height, width, channels).

    Args:
        classes: outputs of the head, 0 for none.
        platform: cpu, gpu or tpu, on which "auto" depends; None for the default backend.

    Raises:
        InputError: fields that do not fit each other or the image.
    """
    platform = platform or jax.default_backend()
    if model.variant in RESNETS:
        return _build_resnet(model, image_shape, classes, platform)
    size, patch, stages = parse_variant(model.variant)
    width, depth = model.width or size.width, model.depth or size.depth
    patch = _pair(model.patch) or patch
    stride = _pair(model.patch_stride) or patch
    class_token = model.has_class_token
    spec = block_spec(model, size, width, platform)
    stem = _stem(model, stages, spec.dtype)
    check_block("model", width, spec, platform)
    _check(model, width, patch, stride, class_token)
    scan = platform != "cpu" if model.scan is None else model.scan
    if model.max_patches is not None:
        _check_naflex(model, patch, stride, class_token, stem)
    tower = (ViT if model.max_patches is None else NaFlexViT)(
        stem=stem,
        width=width,
        depth=depth,
        block=spec,
        patch=patch,
        patch_stride=stride,
        image_shape=tuple(image_shape),
        classes=classes,
        patch_bias=model.patch_bias,
        drop_edge=model.drop_edge,
        pool=model.pool,
        pool_norm=model.pool_norm,
        class_token=class_token,
        positions=model.positions,
        position_grid=_pair(model.position_grid),
        class_position=model.class_position,
        position_std=_position_std(model, width),
        position_resample=model.position_resample,
        position_offset=model.position_offset,
        registers=model.registers,
        distillation=model.distillation,
        distillation_head=model.distillation_head,
        pre_norm=model.pre_norm,
        stochastic_depth=model.stochastic_depth,
        patch_dropout=model.patch_dropout,
        pre_logits=width if model.pre_logits is True else int(model.pre_logits),
        head_init=model.head_init,
        head_bias=model.head_bias,
        remat=choose_remat(model.remat, scan, platform),
        scan=scan,
    )
    grid = tower.grid(tuple(image_shape[:2]))
    own = model.positions == "learned" and tower.position_grid is None
    return tower.clone(position_grid=grid) if own else tower


def _stem(model: config.Model, stages: tuple[int, ...] | None, dtype: str) -> StemSpec | None:
    """The ResNet of a hybrid; None for a model that looks at the image itself."""
    defaults = config.Model()
    given = [x for x in STEM_FIELDS if getattr(model, x) != getattr(defaults, x)]
    if stages is None and given:
        raise InputError(
            f"model.{given[0]} is for ResNets and hybrids, and model.variant is {model.variant!r}: "
            "leave it out, or take a variant such as 'R50+B/16'."
        )
    if stages is None:
        return None
    if model.drop_edge:
        raise InputError("model.drop_edge is not for hybrids, whose ResNet pads: leave it false.")
    width = model.stem_width or StemSpec.width
    if width % GROUPS:
        raise InputError(
            f"model.stem_width {width} does not divide into {GROUPS} groups: use "
            f"{max(1, round(width / GROUPS)) * GROUPS}."
        )
    return StemSpec(
        stages=stages if model.stages is None else model.stages,
        width=width,
        norm_eps=model.stem_norm_eps,
        standardize=model.stem_standardize,
        dtype=dtype,
        remat=model.remat == "full",
    )


def choose_remat(wanted: str, scan: bool, platform: str) -> str:
    """What "auto" means; other names pass through.

    On CPU, "dots" is faster than "none", though it computes norms and activations twice: it needs
    0.4 of the memory, and fresh memory costs more than arithmetic there. An unrolled ViT-B/16
    takes 0.9 of the time.
    """
    if wanted != "auto":
        return wanted
    return "dots" if scan or platform == "cpu" else "none"


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    return (value, value) if isinstance(value, int) else tuple(value)


def _position_std(model: config.Model, width: int) -> float:
    if model.position_std is not None:
        return model.position_std
    return width**-0.5 if model.init == "clip" else 0.02


def block_spec(
    section: config.Model | config.Text, size: Size, width: int, platform: str, **fields
) -> BlockSpec:
    """What a tower's section says of its blocks; fields that it has not are BlockSpec's own."""
    heads = section.heads or size.heads
    dtype = compute_dtype(section.dtype, platform)
    shared = {
        name: getattr(section, name)
        for name in ("bias", "qkv_bias", "layer_scale", "attention_dropout")
        if name in type(section).model_fields
    }
    init = section.init
    if init == "clip" and isinstance(section, config.Model):
        init = "torch"  # the image tower's blocks were left at PyTorch's own values
    return BlockSpec(
        heads=heads,
        mlp_dim=section.mlp_dim or size.mlp_dim,
        activation=section.activation,
        norm_eps=section.norm_eps,
        dropout=section.dropout,
        attention=choose_attention(section.attention, platform, dtype, width // heads),
        dtype=dtype,
        init=init,
        **shared,
        **fields,
    )


def compute_dtype(wanted: str, platform: str) -> str:
    """What "auto" means; other names pass through."""
    if wanted != "auto":
        return wanted
    return "float32" if platform == "cpu" else "bfloat16"


def _build_resnet(
    model: config.Model, image_shape: tuple[int, int, int], features: int, platform: str
) -> ResNet:
    size = RESNETS[model.variant]
    defaults = config.Model()
    for name in type(model).model_fields:
        if name not in RESNET_FIELDS and getattr(model, name) != getattr(defaults, name):
            raise InputError(
                f"model.{name} is for Vision Transformers, and model.variant is "
                f"{model.variant!r}: leave it out."
            )
    width = model.width or size.width
    heads = model.heads or max(1, width * 32 // 64)
    check_heads("model", width * 32, heads)
    if width % 2:
        raise InputError(f"model.width {width} of a ResNet must be even: use {width + 1}.")
    resnet_grid(image_shape[:2])
    stages = model.stages or size.stages
    if len(stages) != 4:
        raise InputError(f"model.stages of a ResNet are 4 numbers, such as {size.stages}.")
    dtype = compute_dtype(model.dtype, platform)
    attention = choose_attention(model.attention, platform, dtype, width * 32 // heads)
    check_attention("model", attention, dtype, platform)
    return ResNet(
        stages=stages,
        width=width,
        heads=heads,
        image_shape=tuple(image_shape),
        features=features,
        batch_statistics=model.batch_norm == "batch",
        attention=attention,
        dtype=dtype,
        remat="none" if model.remat == "auto" else model.remat,
    )


def check_block(where: str, width: int, spec: BlockSpec, platform: str) -> None:
    """Raises InputError on what does not fit in the section `where`."""
    check_heads(where, width, spec.heads)
    check_attention(where, spec.attention, spec.dtype, platform)


def check_heads(where: str, width: int, heads: int) -> None:
    if width % heads:
        near = [n for n in range(1, width + 1) if width % n == 0]
        raise InputError(
            f"{where}.width {width} does not divide by {where}.heads {heads}: use "
            f"{min(near, key=lambda n: abs(n - heads))} heads, or a width of "
            f"{max(1, round(width / heads)) * heads}."
        )


def check_attention(where: str, attention: str, dtype: str, platform: str) -> None:
    if attention == "cudnn" and (platform != "gpu" or dtype == "float32"):
        raise InputError(
            f"{where}.attention 'cudnn' runs on GPUs in bfloat16 or float16, not on {platform} in "
            f"{dtype}: use 'auto', or set {where}.dtype."
        )


def _check(
    model: config.Model,
    width: int,
    patch: tuple[int, int],
    stride: tuple[int, int],
    class_token: bool,
) -> None:
    """One sentence on what does not fit, and what would."""
    if model.positions.startswith("sincos2d") and width % 4:
        raise InputError(
            f"model.positions {model.positions!r} needs a width that divides by 4, not {width}: "
            f"use {max(1, round(width / 4)) * 4}, or learned positions."
        )
    if any(step > side for step, side in zip(stride, patch, strict=True)):
        raise InputError(
            f"model.patch_stride {stride} is larger than the patch {patch}, pixels would be lost: "
            "use a stride of at most the patch."
        )
    if model.pool in ("cls", "cls_gap") and not class_token:
        raise InputError(
            f"model.pool {model.pool!r} reads the class token, but model.class_token is False: use "
            "pool 'gap' or 'map', or keep the token."
        )
    if model.pool_norm and model.pool != "gap":
        raise InputError(
            f"model.pool_norm is for model.pool 'gap', not {model.pool!r}: leave it false."
        )
    if model.distillation and (model.pool != "cls" or model.pre_logits):
        raise InputError(
            "model.distillation adds a second class token, so it wants model.pool 'cls', and no "
            "model.pre_logits."
        )
    if model.position_offset and model.position_resample == "align_corners":
        raise InputError(
            f"model.position_offset {model.position_offset} has no meaning with position_resample "
            "'align_corners', which takes no step: use 'cubic_torch', or an offset of 0."
        )


def _check_naflex(
    model: config.Model,
    patch: tuple[int, int],
    stride: tuple[int, int],
    class_token: bool,
    stem: StemSpec | None,
) -> None:
    """Raises InputError on what images of any shape (model.max_patches) cannot have."""
    rules = ("bilinear_antialiased", "bilinear")
    faults = {
        "a class token": class_token,
        "a hybrid's ResNet": stem is not None,
        "model.registers": model.registers,
        "model.distillation": model.distillation,
        "model.patch_dropout": model.patch_dropout,
        "overlapping patches": patch != stride,
        f"model.pool {model.pool!r}": model.pool not in ("map", "gap", "none"),
        f"model.positions {model.positions!r}": model.positions != "learned",
        f"model.position_resample {model.position_resample!r}": model.position_resample
        not in rules,
    }
    for name, given in faults.items():
        if given:
            raise InputError(
                f"model.max_patches is for images of any shape, and {name} is not known for them: "
                "use pool map or gap, learned positions, position_resample "
                "'bilinear_antialiased', and leave the rest out."
            )
