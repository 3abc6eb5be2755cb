"""Images and their texts in one space: CLIP (Radford 2021), LiT (Zhai 2022), SigLIP (Zhai 2023)."""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_vit_lite import config, data, models
from big_vit_lite.losses import contrastive as losses
from big_vit_lite.losses.feature_cache import cached_value_and_grad, divide, join
from big_vit_lite.losses.negatives import Negatives
from big_vit_lite.parallel import constrain
from big_vit_lite.tasks.images import normalize, shrink
from big_vit_lite.tasks.teacher import Teacher

FULL_UP_TO = 4096
"""Batch up to which form "auto" computes the matrix of pairs as one: 64 MiB of float32."""


class Contrastive:
    """Learns features in which an image is nearest to its own text, with any two towers.

    Batches: text int32 (b, l) and image uint8 (b, h, w, c), or features float32 (b, e): what a
    locked image tower made of the images, of any length. Rows of the global batch are each other's
    negatives.
    """

    def __init__(self, run: config.Run, model):
        self.model, self.options = model, run.task
        self.mean, self.std = run.data.mean, run.data.std
        self.size: tuple[int, int] | None = None
        self.negatives = Negatives(run.task.hardness, run.task.semi_hard)
        self.teacher: Teacher | None = None
        self.parts = run.optim.accumulate
        self._text = run.data.train.text
        form = run.task.form
        if form == "auto":
            form = "full" if run.data.batch_size <= FULL_UP_TO else "ring"
        self.walk = {"form": form, "chunk": run.task.chunk}

    @functools.cached_property
    def text(self) -> data.text.TextTransform:
        """From a caption to tokens as in training, but for what is drawn at random.

        Raises:
            InputError: its vocabulary is not there.
        """
        return data.text.parse(self._text, "data.train.text").without_chance()

    def at_size(self, size: tuple[int, int] | None) -> "Contrastive":
        """The same task on images of (height, width) `size`."""
        other = copy.copy(self)
        other.size = size
        return other

    def init(self, key: jax.Array):
        return models.init_params(self.model, key)

    def prepare(self, batch: dict, key: jax.Array) -> dict:
        """What the task reads of a batch. Images stay uint8, a quarter of their memory in float32,
        until a part of them is encoded."""
        read = ("image", "text", "features")
        return {name: constrain(batch[name]) for name in read if name in batch}

    def images(self, batch: dict) -> Float[Array, "b h w c"] | None:
        """A prepared batch's images as the towers are trained on them; None where features stand
        for them."""
        if "image" not in batch:
            return None
        return constrain(shrink(normalize(batch["image"], self.mean, self.std), self.size))

    def teach(self, params: Any, batch: dict) -> dict:
        """A prepared batch with the teacher's features beside it, made in as many parts as the
        gradient.

        Args:
            params: the teacher's.
        """

        def features(part: tuple[Array, Array]) -> dict:
            images, text = jax.tree.map(constrain, part)
            seen = normalize(images, self.teacher.mean, self.teacher.std)
            found, _ = self.teacher.model.apply({"params": params}, seen, text)
            return {
                "teacher_image": found.image,
                "teacher_text": found.text,
                # A row for each example, so that batches can be cut.
                "teacher_scale": jnp.broadcast_to(found.scale, (len(images),)),
            }

        given = (batch["image"], batch["text"])
        if self.parts == 1:
            taught = features(given)
        else:
            taught = jax.lax.map(features, jax.tree.map(lambda x: divide(x, self.parts), given))
            taught = jax.tree.map(lambda x: constrain(join(x)), taught)
        return batch | jax.lax.stop_gradient(taught)

    def encode(self, params: Any, batch: dict, key: jax.Array) -> tuple[dict, dict]:
        """Features of a prepared batch, a tree with one row an example, and new statistics of
        batch norms, where a tower has them."""
        (embeddings, out), updated = self.model.apply(
            {"params": params},
            self.images(batch),
            batch["text"],
            train=True,
            rngs={"dropout": key},
            mutable=["statistics"],
        )
        image = embeddings.image
        if image is None:
            image = models.normalized(batch["features"], {})[0]
        features = {"image": constrain(image), "text": constrain(embeddings.text)}
        features |= {name: x for name, x in batch.items() if name.startswith("teacher_")}
        return features | self.more_features(batch, out), updated.get("statistics", {})

    def more_features(self, batch: dict, out: dict) -> dict:
        """What else the loss wants of each example."""
        return {}

    def compare(self, params: Any, features: dict) -> tuple[Float[Array, ""], dict]:
        """The loss of the features of a whole batch, and what is logged beside it."""
        image, text, o = features["image"], features["text"], self.options
        joint, _ = self.model.apply({"params": params})
        common = {"negatives": self.negatives, **self.walk}
        metrics = {
            "logit_scale": joint.scale,
            "similarity": jnp.mean(jnp.sum(image * text, axis=-1)),
        }
        with jax.named_scope("contrastive"):
            if o.loss == "sigmoid":
                bias = 0.0 if joint.bias is None else joint.bias
                loss = losses.sigmoid_contrastive(image, text, joint.scale, bias, **common)
            else:
                loss = losses.softmax_contrastive(
                    image, text, joint.scale, label_smoothing=o.label_smoothing, **common
                )
        if joint.bias is not None:
            metrics["logit_bias"] = joint.bias
        if self.teacher is not None:
            with jax.named_scope("distillation"):
                taught = losses.contrastive_distillation(
                    image,
                    text,
                    joint.scale,
                    features["teacher_image"],
                    features["teacher_text"],
                    features["teacher_scale"][0],
                    **self.walk,
                )
            metrics |= {"contrastive_loss": loss, "teacher_loss": taught}
            loss = loss + o.teacher_weight * taught
        return loss, metrics

    def loss(self, params: Any, batch: dict, key: jax.Array) -> tuple[Float[Array, ""], dict]:
        """The loss of a prepared batch; metrics may hold "statistics" of batch norms."""
        features, statistics = self.encode(params, batch, key)
        loss, metrics = self.compare(params, features)
        return loss, metrics | ({"statistics": statistics} if statistics else {})

    def in_parts(self, parts: int, lock, scale):
        """The whole batch's gradient, `parts` times less of it in memory (GradCache, Gao 2021).

        Args:
            lock: stops gradients of parameters that do not train.
            scale: multiplies the loss that is differentiated.
        """

        def encode(params, batch, key):
            return self.encode(lock(params), batch, key)[0]

        def compare(params, features):
            loss, metrics = self.compare(lock(params), features)
            return loss * scale, (loss, metrics)

        return cached_value_and_grad(encode, compare, parts)

    def with_statistics(self, params: Any, statistics: dict) -> Any:
        """Parameters with the running statistics of a step."""
        return models.with_statistics(params, statistics)

    def encode_image(self, params: Any, batch: dict) -> Float[Array, "b e"]:
        """Features of a batch's images, rows of length 1; without randomness."""
        if "image" not in batch:
            return models.normalized(constrain(batch["features"]), {})[0]
        images = normalize(constrain(batch["image"]), self.mean, self.std)
        return self.model.apply({"params": params}, images, method="encode_image")[0]

    def encode_text(self, params: Any, tokens: Int[Array, "b l"]) -> Float[Array, "b e"]:
        """Features of texts, rows of length 1; without randomness."""
        return self.model.apply({"params": params}, constrain(tokens), method="encode_text")[0]
