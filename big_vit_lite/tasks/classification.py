"""Image classification with softmax or sigmoid cross-entropy."""

import copy

import jax
import jax.numpy as jnp

from big_vit_lite import config, models
from big_vit_lite.losses import classification as losses
from big_vit_lite.parallel import constrain
from big_vit_lite.tasks.images import normalize, shrink
from big_vit_lite.tasks.mixing import mix, partner_distance

LOSSES = {
    "softmax": losses.softmax_cross_entropy,
    "sigmoid": losses.sigmoid_cross_entropy,
}


class Classification:
    """Learns p(class | image) with any model that maps images to logits.

    Batches: image uint8 (b, h, w, c), label int32 (b,); evaluation adds mask bool (b,).
    """

    def __init__(self, run: config.Run, model):
        self.model = model
        self.options = run.task
        self.mean, self.std = run.data.mean, run.data.std
        self.size: tuple[int, int] | None = None
        self.partner_distance = partner_distance(run.data)
        self.cross_entropy = LOSSES[run.task.loss]

    def at_size(self, size: tuple[int, int] | None) -> "Classification":
        """The same task on images of (height, width) `size`."""
        other = copy.copy(self)
        other.size = size
        return other

    def init(self, key: jax.Array):
        return models.init_params(self.model, key)

    def prepare(self, batch: dict, key: jax.Array) -> dict:
        """Normalises, smooths and mixes; smoothing comes before mixing."""
        images = normalize(constrain(batch["image"]), self.mean, self.std)
        images = constrain(shrink(images, self.size))
        targets = losses.smooth_labels(
            batch["label"], self.model.classes, self.options.label_smoothing
        )
        images, targets = mix(images, targets, self.options, key, self.partner_distance)
        return {"image": constrain(images), "target": constrain(targets)}

    def loss(self, params, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        """Mean cross-entropy of a prepared batch."""
        logits, _ = self.model.apply(
            {"params": params}, batch["image"], train=True, rngs={"dropout": key}
        )
        return self.cross_entropy(logits, batch["target"]).mean(), {}

    def predict(self, params, batch: dict) -> dict:
        """Per example: logits (b, classes) and the cross-entropy against the plain label (b,)."""
        images = normalize(constrain(batch["image"]), self.mean, self.std)
        logits, _ = self.model.apply({"params": params}, images, train=False)
        # Padding rows carry label -1 or 0; their loss is masked by whoever sums it.
        targets = losses.smooth_labels(jnp.maximum(batch["label"], 0), self.model.classes)
        return {"logits": logits, "loss": self.cross_entropy(logits, targets)}
