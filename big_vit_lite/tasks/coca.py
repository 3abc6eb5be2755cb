"""CoCa (Yu 2022): the contrastive task, and captions written from the image."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from big_vit_lite import config
from big_vit_lite.parallel import constrain
from big_vit_lite.tasks.contrastive import Contrastive


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
        # The decoder's vocabulary is the largest tensor of the step; float32 as all logits are.
        targets = batch["text"][:, 1:]
        with jax.named_scope("caption"):
            logits = constrain(out["caption/logits"][:, :-1])
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        counts = targets != self.pad_id if self.pad_id is not None else jnp.ones_like(targets, bool)
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

    def caption_nll(self, params: Any, batch: dict) -> dict[str, Array]:
        """For evaluation, per example: caption_nll (b,) in nats and caption_tokens (b,)."""
        prepared = self.prepare({name: batch[name] for name in ("image", "text")}, None)
        _, out = self.model.apply({"params": params}, prepared["image"], prepared["text"])
        return self.more_features(prepared, out)
