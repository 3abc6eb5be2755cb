"""From config sections to an image tower and what stands beside it, every "auto" resolved."""

import dataclasses

import jax

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.build import (
    block_spec,
    build_model,
    check_block,
    check_heads,
    choose_remat,
)
from big_vit_lite.models.clip import Clip
from big_vit_lite.models.coca import CaptionDecoder, Coca, QueryPooling
from big_vit_lite.models.layers.attention import choose_attention
from big_vit_lite.models.layers.patches import patch_grid
from big_vit_lite.models.mae import MAE, PixelDecoder
from big_vit_lite.models.resnet import ResNet
from big_vit_lite.models.sizes import RESNETS, parse_size
from big_vit_lite.models.text import TextTransformer
from big_vit_lite.models.vit import ViT


def build_clip(
    model: config.Model,
    text: config.Text,
    joint: config.Joint,
    image_shape: tuple[int, int, int],
    text_length: int,
    platform: str | None = None,
) -> Clip:
    """The two towers of a config, for images (height, width, channels) and texts of a length.

    Args:
        text_length: tokens of a text as the data has them; text.length wins where it is given.
        platform: cpu, gpu or tpu, on which "auto" depends; None for the default backend.

    Raises:
        InputError: fields that do not fit each other, the image or the text.
    """
    platform = platform or jax.default_backend()
    image = build_model(model, image_shape, 0, platform)
    width = image.output_features
    if width is None:
        raise InputError("model.pool 'none' gives no vector an image: use pool cls, gap or map.")
    features = joint.features or width
    if joint.projections in ("both", "image") or isinstance(image, ResNet):
        image = _project(image, features, joint.projection_bias)
    elif width != features:
        raise InputError(
            f"joint.features is {features}, but the image tower gives {width} without a "
            f"projection: set joint.projections='both', or joint.features={width}."
        )
    projected = joint.projections in ("both", "text")
    texts = build_text(text, text_length, features if projected else 0, platform)
    if not projected and texts.width != features:
        raise InputError(
            f"joint.features is {features}, but the text tower gives {texts.width} without a "
            f"projection: set joint.projections='text' or 'both', or text.width={features}."
        )
    return Clip(
        img=image,
        txt=texts.clone(head_bias=joint.projection_bias),
        logit_scale=joint.logit_scale,
        max_logit_scale=joint.max_logit_scale,
        logit_bias=joint.logit_bias,
    )


def image_tower(model: ViT | ResNet | Clip) -> ViT | ResNet:
    """The model itself, or the one of two towers that looks at images."""
    return getattr(model, "img", model)


def build_coca(
    model: config.Model,
    text: config.Text,
    joint: config.Joint,
    decoder: config.Decoder,
    image_shape: tuple[int, int, int],
    text_length: int,
    platform: str | None = None,
) -> Coca:
    """The two towers and the caption decoder of a config; arguments as for `build_clip`.

    Raises:
        InputError: fields that do not fit each other, the image or the text.
    """
    if text.pool != "cls" or not text.causal:
        raise InputError(
            "A caption decoder wants the text tower of CoCa: text.causal=True and text.pool='cls'."
        )
    if model.variant in RESNETS:
        raise InputError(
            f"model.variant {model.variant!r}: CoCa pools the tokens of a Vision Transformer; use "
            "one, such as 'B/32'."
        )
    image_only = joint.model_copy(update={"projections": "both", "projection_bias": False})
    pair = build_clip(model, text, image_only, image_shape, text_length, platform)
    width = pair.img.classes
    check_heads("decoder.pool", width, decoder.pool_heads)
    texts, image = pair.txt.clone(pad_shift=decoder.pad_shift), pair.img.clone(classes=0)
    depth = decoder.depth or texts.depth
    pool_spec = dataclasses.replace(image.block, heads=decoder.pool_heads, init="clip", depth=None)
    return Coca(
        img=image,
        txt=texts,
        logit_scale=joint.logit_scale,
        max_logit_scale=joint.max_logit_scale,
        logit_bias=joint.logit_bias,
        pool=QueryPooling(pool_spec, width, decoder.queries),
        decoder=CaptionDecoder(
            width=texts.width,
            depth=depth,
            block=dataclasses.replace(texts.block, depth=depth),
            vocabulary=texts.vocabulary,
            remat=texts.remat,
            scan=texts.scan,
        ),
    )


def build_mae(
    model: config.Model,
    reconstruction: config.Reconstruction,
    image_shape: tuple[int, int, int],
    platform: str | None = None,
) -> MAE:
    """The masked autoencoder of a config, for images of (height, width, channels).

    The decoder has the encoder's activation, norms and numerics.

    Raises:
        InputError: fields that do not fit each other or the image.
    """
    platform = platform or jax.default_backend()
    encoder = build_model(model, image_shape, 0, platform)
    plain = isinstance(encoder, ViT) and encoder.class_token and encoder.pool == "cls"
    if not plain or encoder.registers or encoder.distillation or encoder.patch_dropout:
        raise InputError(
            "MAE hides patches of a Vision Transformer with a class token: leave model.pool 'cls', "
            "and model.registers, model.distillation and model.patch_dropout out."
        )
    if encoder.patch_stride != encoder.patch or encoder.drop_edge:
        raise InputError(
            "MAE predicts the pixels of patches that tile the image: leave model.patch_stride and "
            "model.drop_edge out."
        )
    section = reconstruction
    block = dataclasses.replace(
        encoder.block,
        heads=section.heads,
        mlp_dim=section.mlp_dim,
        layer_scale=None,
        attention=choose_attention(
            model.attention, platform, encoder.block.dtype, section.width // section.heads
        ),
    )
    check_block("reconstruction", section.width, block, platform)
    if section.positions != "learned" and section.width % 4:
        raise InputError(
            f"reconstruction.positions {section.positions!r} needs a width that divides by 4, not "
            f"{section.width}: use {max(1, round(section.width / 4)) * 4}, or learned positions."
        )
    grid = patch_grid(image_shape[:2], encoder.patch, encoder.patch_stride)
    decoder = PixelDecoder(
        width=section.width,
        depth=section.depth,
        block=block,
        patch_length=encoder.patch[0] * encoder.patch[1] * image_shape[2],
        positions=section.positions,
        grid=grid,
        position_resample=section.position_resample,
        remat=encoder.remat,
        scan=encoder.scan,
    )
    hidden = grid[0] * grid[1] - int(grid[0] * grid[1] * (1 - section.mask_ratio))
    if not 0 < hidden < grid[0] * grid[1]:
        raise InputError(
            f"reconstruction.mask_ratio {section.mask_ratio} hides {hidden} of "
            f"{grid[0] * grid[1]} patches: some must be hidden, and some seen."
        )
    return MAE(encoder=encoder, decoder=decoder, mask_ratio=section.mask_ratio)


def _project(image: ViT | ResNet, features: int, bias: bool) -> ViT | ResNet:
    """The image tower with a linear map to the space, drawn from N(0, 1 / width)."""
    if isinstance(image, ResNet):
        return image.clone(features=features)
    std = image.output_features**-0.5
    return image.clone(classes=features, head_init=std, head_bias=0.0 if bias else None)


def build_text(
    text: config.Text, length: int, features: int, platform: str | None = None
) -> TextTransformer:
    """The text tower of a config, for texts of `length` tokens, with `features` outputs (0: as
    they are pooled).

    Raises:
        InputError: fields that do not fit each other.
    """
    platform = platform or jax.default_backend()
    size = parse_size(text.variant, "text.variant")
    width, depth = text.width or size.width, text.depth or size.depth
    if text.length is not None and text.length < length:
        raise InputError(
            f"text.length is {text.length}, but the texts have {length} tokens: set "
            f"text.length={length}, or truncate in data.train.text."
        )
    for name in ("end_id", "pad_id"):
        number = getattr(text, name)
        if number is not None and number >= text.vocabulary:
            raise InputError(
                f"text.{name} {number} is beyond text.vocabulary {text.vocabulary}: ids are "
                f"0 to {text.vocabulary - 1}."
            )
    spec = block_spec(text, size, width, platform, causal=text.causal, depth=depth)
    check_block("text", width, spec, platform)
    scan = platform != "cpu" if text.scan is None else text.scan
    std = width**-0.5 if text.init == "xavier" else 0.01
    return TextTransformer(
        width=width,
        depth=depth,
        block=spec,
        vocabulary=text.vocabulary,
        length=text.length or length,
        features=features,
        pool=text.pool,
        end_id=text.end_id,
        pad_id=text.pad_id,
        position_std=std if text.position_std is None else text.position_std,
        stochastic_depth=text.stochastic_depth,
        remat=choose_remat(text.remat, scan, platform),
        scan=scan,
    )
