"""From a config section to a model with every "auto" resolved, and its initial parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.layers.attention import choose_attention
from big_vit_lite.models.layers.blocks import Block, BlockSpec
from big_vit_lite.models.layers.patches import patch_grid
from big_vit_lite.models.sizes import parse_variant
from big_vit_lite.models.stacking import STACKED, unstack_layers
from big_vit_lite.models.vit import ViT


def build_model(
    model: config.Model,
    image_shape: tuple[int, int, int],
    classes: int,
    platform: str | None = None,
) -> ViT:
    """The model of a config for images of (height, width, channels).

    Args:
        classes: outputs of the head, 0 for none.
        platform: cpu, gpu or tpu, on which "auto" depends; None for the default backend.

    Raises:
        InputError: fields that do not fit each other or the image.
    """
    platform = platform or jax.default_backend()
    size, patch = parse_variant(model.variant)
    width, depth = model.width or size.width, model.depth or size.depth
    patch = _pair(model.patch) or patch
    stride = _pair(model.patch_stride) or patch
    class_token = model.pool == "cls" if model.class_token is None else model.class_token
    spec = _block_spec(model, size, width, platform)
    _check(model, width, spec.heads, patch, stride, class_token)
    _check_attention(spec, platform)
    grid = patch_grid(image_shape[:2], patch, stride)
    scan = platform != "cpu" if model.scan is None else model.scan
    return ViT(
        width=width,
        depth=depth,
        block=spec,
        patch=patch,
        patch_stride=stride,
        image_shape=tuple(image_shape),
        classes=classes,
        patch_bias=model.patch_bias,
        pool=model.pool,
        class_token=class_token,
        positions=model.positions,
        position_grid=_pair(model.position_grid)
        or (grid if model.positions == "learned" else None),
        class_position=model.class_position,
        position_std=0.02 if model.position_std is None else model.position_std,
        position_resample=model.position_resample,
        position_offset=model.position_offset,
        registers=model.registers,
        pre_norm=model.pre_norm,
        stochastic_depth=model.stochastic_depth,
        patch_dropout=model.patch_dropout,
        pre_logits=width if model.pre_logits is True else int(model.pre_logits),
        head_init=model.head_init,
        head_bias=model.head_bias,
        remat=_choose_remat(model.remat, scan, platform),
        scan=scan,
    )


def init_params(model: ViT, key: Key[Array, ""]) -> dict[str, Any]:
    """Initial parameters as a plain nested dict, float32, as AugReg (Steiner 2022) had them.

    Bitwise the same for a scanned and an unrolled model: the layers are drawn by one function,
    mapped over keys fold_in(key, layer), and everything else by a model of depth 0.
    """
    # Compiled here also when nobody else does: outside jit, fused and unfused arithmetic differ in
    # the last bit.
    return _init_params(model, key)


@functools.partial(jax.jit, static_argnums=0)
def _init_params(model: ViT, key: Key[Array, ""]) -> dict[str, Any]:
    rest_key, layers_key = jax.random.split(key)
    shell = model.clone(depth=0, scan=False)
    params = shell.init(rest_key, jnp.zeros((1, *model.image_shape)))["params"]
    keys = jax.vmap(lambda i: jax.random.fold_in(layers_key, i))(jnp.arange(model.depth))
    tokens = jnp.zeros((1, 1, model.width), model.block.dtype)
    layers = jax.vmap(lambda k: Block(model.block).init(k, tokens)["params"])(keys)
    params["Transformer"][STACKED] = layers
    return params if model.scan else unstack_layers(params)


def _choose_remat(wanted: str, scan: bool, platform: str) -> str:
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


def _block_spec(model: config.Model, size: Any, width: int, platform: str) -> BlockSpec:
    heads = model.heads or size.heads
    dtype = model.dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    return BlockSpec(
        heads=heads,
        mlp_dim=model.mlp_dim or size.mlp_dim,
        activation=model.activation,
        norm_eps=model.norm_eps,
        bias=model.bias,
        qkv_bias=model.qkv_bias,
        layer_scale=model.layer_scale,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        attention=choose_attention(model.attention, platform, dtype, width // heads),
        dtype=dtype,
    )


def _check(
    model: config.Model,
    width: int,
    heads: int,
    patch: tuple[int, int],
    stride: tuple[int, int],
    class_token: bool,
) -> None:
    """One sentence on what does not fit, and what would."""
    if width % heads:
        near = [n for n in range(1, width + 1) if width % n == 0]
        raise InputError(
            f"model.width {width} does not divide by model.heads {heads}: use "
            f"{min(near, key=lambda n: abs(n - heads))} heads, or a width of "
            f"{max(1, round(width / heads)) * heads}."
        )
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
    if model.pool == "cls" and not class_token:
        raise InputError(
            "model.pool 'cls' reads the class token, but model.class_token is False: use pool "
            "'gap' or 'map', or keep the token."
        )
    if model.position_offset and model.position_resample == "align_corners":
        raise InputError(
            f"model.position_offset {model.position_offset} has no meaning with position_resample "
            "'align_corners', which takes no step: use 'cubic_torch', or an offset of 0."
        )


def _check_attention(spec: BlockSpec, platform: str) -> None:
    if spec.attention == "cudnn" and (platform != "gpu" or spec.dtype == "float32"):
        raise InputError(
            f"model.attention 'cudnn' runs on GPUs in bfloat16 or float16, not on {platform} in "
            f"{spec.dtype}: use 'auto', or set model.dtype."
        )
