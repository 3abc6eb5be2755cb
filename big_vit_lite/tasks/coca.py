"""CoCa (Yu 2022): the contrastive task, and captions written from the image."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from big_vit_lite import config, models
from big_vit_lite.parallel import constrain
from big_vit_lite.tasks.contrastive import Contrastive
from big_vit_lite.tasks.images import normalize


class CocaTask(Contrastive):
    """Learns to match images and texts, and to write each image's text token by token.

    L = contrastive_weight * L_con - caption_weight * mean over tokens of log p(token | image,
    tokens before it); padding is no token. Batches are those of `Contrastive`, with images.
    """

    def __init__(self, run: config.Run, model):
        super().__init__(run, model)
        self.pad_id = run.text.pad_id

    def more_features(self, batch: dict, out: dict) -> dict:
        """Each caption's negative log-likelihood, and how many tokens it is the sum of.

        Sums of rows, so that parts of a batch add up to the mean over all its tokens.
        """
        return self._tokens_nll(out["caption/logits"], batch["text"])

    def _tokens_nll(self, logits: Float[Array, "b l v"], text: Int[Array, "b l"]) -> dict:
        targets = text[:, 1:]
        # The decoder's logits are the largest tensor of the step; float32 as all logits are.
        with jax.named_scope("caption"):
            logits = constrain(logits[:, :-1])
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        counts = targets != self.pad_id
        return {
            "caption_nll": jnp.sum(jnp.where(counts, nll, 0.0), axis=-1),
            "caption_tokens": jnp.sum(counts, axis=-1).astype(jnp.float32),
        }

    def compare(self, params: Any, features: dict) -> tuple[Float[Array, ""], dict]:
        o = self.options
        contrastive, metrics = super().compare(params, features)
        tokens = jnp.maximum(jnp.sum(features["caption_tokens"]), 1.0)
        caption = jnp.sum(features["caption_nll"]) / tokens
        loss = o.contrastive_weight * contrastive + o.caption_weight * caption
        return loss, metrics | {"contrastive_loss": contrastive, "caption_loss": caption}

    def image_tokens(self, params: Any, batch: dict) -> Float[Array, "b q e"]:
        """For evaluation: what the decoder looks at while it reads a text."""
        images = normalize(constrain(batch["image"]), self.mean, self.std)
        _, out = self.model.apply({"params": params}, images, method="encode_image")
        return constrain(out["image_tokens"])

    def caption_nll(
        self, params: Any, image_tokens: Float[Array, "b q e"], text: Int[Array, "b l"]
    ) -> dict[str, Array]:
        """For evaluation, of each text: caption_nll (b,) in nats and caption_tokens (b,), those
        that were predicted: all but the first and padding."""
        logits = self.model.apply(
            {"params": params}, image_tokens, constrain(text), method="caption_logits"
        )
        return self._tokens_nll(logits, text)

    def write(self, params: Any, batch: dict, beams: int = 1) -> tuple[Array, Array]:
        """For evaluation: texts (b, l) of the images as `models.caption` writes them, and their
        log-probabilities (b,). `text` has to name a start, an end and padding."""
        images = normalize(constrain(batch["image"]), self.mean, self.std)
        ids = {"start": self.text.start_id, "end": self.text.end_id, "pad": self.text.pad_id}
        return models.caption(
            self.model, params, images, length=self.text.length, beams=beams, **ids
        )
