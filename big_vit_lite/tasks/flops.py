"""What it costs to train on one example, in FLOPs of the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite import config, models, optim, report
from big_vit_lite.models.layers.blocks import GATED
from big_vit_lite.models.layers.stem import ResNetStem, StemSpec
from big_vit_lite.models.text import TextTransformer
from big_vit_lite.models.vit import ViT
from big_vit_lite.tasks.model import build_model, image_shape


def train_flops(
    run: config.Run, model, spec: dict[str, Any], size: tuple[int, int] | None = None
) -> int:
    """Analytic FLOPs to train on one image, of (height, width) `size`; None: as the data has them.

    The backward pass counts twice the forward pass, which towers that are locked have alone;
    features of images count nothing, nor does what remat computes again: utilisation is of the
    model, not of the program.

    Args:
        spec: shapes of a global batch.
    """
    if hasattr(model, "img"):
        return _two_tower_flops(run, model, spec, size)
    return 3 * _image_flops(model, size or model.image_shape[:2])


def _image_flops(model: ViT, size: tuple[int, int]) -> int:
    """Of one image's forward pass in training, without the patches that are dropped."""
    channels, (rows, columns) = model.image_shape[2], model.grid(tuple(size))
    patches = rows * columns
    kept = max(1, round(patches * (1 - model.patch_dropout)))
    return report.forward_flops(
        width=model.width,
        depth=model.depth,
        mlp_dim=model.block.mlp_dim,
        patches=patches,
        tokens=kept + model.class_token + model.distillation + model.registers,
        patch_dim=model.patch[0]
        * model.patch[1]
        * (model.stem.features if model.stem else channels),
        classes=model.classes * (1 + (model.distillation and model.distillation_head)),
        pool=model.pool,
        pre_logits=model.pre_logits,
        mlp_maps=3 if model.block.activation == GATED else 2,
        stem=_stem_flops(model.stem, (1, *size, channels)) if model.stem else 0,
    )


def _text_flops(model: TextTransformer, length: int) -> int:
    """Of one text's forward pass."""
    return report.forward_flops(
        width=model.width,
        depth=model.depth,
        mlp_dim=model.block.mlp_dim,
        patches=0,
        tokens=length + (model.pool == "cls"),
        patch_dim=0,
        classes=model.features,
        pool=model.pool,  # but for map, one vector
        mlp_maps=3 if model.block.activation == GATED else 2,
    )


def _stem_flops(spec: StemSpec, shape: tuple[int, int, int, int]) -> int:
    """Of the convolutions of a hybrid's ResNet, forwards."""
    stem, images = ResNetStem(spec), jnp.zeros(shape)
    variables = jax.eval_shape(stem.init, jax.random.key(0), images)
    return report.count_flops(jax.make_jaxpr(stem.apply)(variables, images))


def _two_tower_flops(
    run: config.Run, model, spec: dict[str, Any], size: tuple[int, int] | None
) -> int:
    """Of one pair's passes."""
    size, length = tuple(size or image_shape(run, spec)[:2]), spec["text"].shape[1]
    if isinstance(model.img, ViT) and not hasattr(model, "decoder"):
        image, text = _image_flops(model.img, size), _text_flops(model.txt, length)
    else:
        image, text = _traced_flops(run, spec, size)
    if "image" not in spec:
        image = 0
    params = models.abstract_params(model)
    factors = optim.multipliers(params, run.optim.lr_rules, "optim.lr_rules")
    moves = jax.tree.map(lambda f: bool(np.any(np.asarray(f) != 0)), factors)
    passes = {name: 3 if any(jax.tree.leaves(moves[name])) else 1 for name in ("img", "txt")}
    return passes["img"] * image + passes["txt"] * text


def _traced_flops(run: config.Run, spec: dict[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """Matrix products and convolutions of the image's forward pass and of all else of a pair's,
    counted in the traced programs.

    What is traced is plain: scanned, nothing computed twice, attention as two products. Where
    positions are resampled, that is counted, too.
    """
    plain = {"scan": True, "remat": "none", "attention": "reference"}
    if run.model.variant in models.RESNETS:
        image_section = run.model.model_copy(update={"attention": "reference"})
    else:
        image_section = run.model.model_copy(update=plain)
    run = run.model_copy(
        update={
            "model": image_section,
            "text": run.text.model_copy(update=plain),
            "mesh": config.Mesh(),
            "optim": run.optim.model_copy(update={"grad_dtype": "auto"}),
        }
    )
    model = build_model(run, spec, 0, "cpu")
    params = models.abstract_params(model)
    images = jax.ShapeDtypeStruct((1, *size, image_shape(run, spec)[2]), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, spec["text"].shape[1]), jnp.int32)

    def forward(images, tokens):
        def apply(params, images, tokens):
            rngs = {"dropout": jax.random.key(0)}
            variables = {"params": params}
            return model.apply(
                variables, images, tokens, train=True, rngs=rngs, mutable=["statistics"]
            )

        return report.count_flops(jax.make_jaxpr(apply)(params, images, tokens))

    image, decodes = forward(images, None), hasattr(model, "decoder")
    # With a decoder also what that computes of both.
    return image, forward(images, tokens) - image if decodes else forward(None, tokens)
