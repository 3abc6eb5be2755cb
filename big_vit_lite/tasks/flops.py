"""What it costs to train on one example, in FLOPs of the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite import config, models, optim, report
from big_vit_lite.models.layers.blocks import GATED
from big_vit_lite.models.layers.stem import ResNetStem, StemSpec
from big_vit_lite.tasks.model import build_model, image_shape


def train_flops(
    run: config.Run, model, spec: dict[str, Any], size: tuple[int, int] | None = None
) -> int:
    """Analytic FLOPs to train on one image, of (height, width) `size`; None: as the data has them.

    Towers that are locked count their forward pass alone, features of images nothing.

    Args:
        spec: shapes of a global batch.
    """
    if hasattr(model, "img"):
        return _two_tower_flops(run, spec, size)
    size, channels = size or model.image_shape[:2], model.image_shape[2]
    rows, columns = model.grid(tuple(size))
    patches = rows * columns
    kept = max(1, round(patches * (1 - model.patch_dropout)))  # what the blocks see in training
    return report.train_flops(
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


def _stem_flops(spec: StemSpec, shape: tuple[int, int, int, int]) -> int:
    """Of the convolutions of a hybrid's ResNet, forwards."""
    stem, images = ResNetStem(spec), jnp.zeros(shape)
    variables = jax.eval_shape(stem.init, jax.random.key(0), images)
    return report.count_flops(jax.make_jaxpr(stem.apply)(variables, images))


def _two_tower_flops(run: config.Run, spec: dict[str, Any], size: tuple[int, int] | None) -> int:
    """Matrix products and convolutions of one pair's passes, counted in the traced programs.

    What is traced is plain: scanned, nothing computed twice, attention as two products.
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
    shape = image_shape(run, spec)
    images = jax.ShapeDtypeStruct((1, *(size or shape[:2]), shape[2]), jnp.float32)
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
    text = forward(images, tokens) - image if decodes else forward(None, tokens)
    if "image" not in spec:
        image = 0
    factors = optim.multipliers(params, run.optim.lr_rules, "optim.lr_rules")
    moves = jax.tree.map(lambda f: bool(np.any(np.asarray(f) != 0)), factors)
    passes = {name: 3 if any(jax.tree.leaves(moves[name])) else 1 for name in ("img", "txt")}
    return passes["img"] * image + passes["txt"] * text
