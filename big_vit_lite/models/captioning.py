"""Captions from CoCa: the likeliest next token each time, or the best of several beams.

Texts have a fixed length, so that one program serves all: what is not yet written is padding. Each
step reads the whole text again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_vit_lite.models.coca import Coca

NEVER = -1e9


@functools.partial(jax.jit, static_argnames=("model", "length", "start", "end", "pad", "beams"))
def caption(
    model: Coca,
    params: Any,
    images: Float[Array, "b H W c"],
    *,
    length: int,
    start: int,
    end: int,
    pad: int = 0,
    beams: int = 1,
) -> tuple[Int[Array, "b n"], Float[Array, "b"]]:
    """The text (start, ..., end, padding) of each image, n = `length`, and its log-probability.

    With one beam greedy. With several, that many texts of highest log-probability are kept at each
    step, ended ones among them; of the last the one with the highest mean over its tokens wins.
    The last position always holds the end, or padding behind it.
    """
    batch, wide = len(images), len(images) * beams
    _, out = model.apply({"params": params}, images, method="encode_image")
    image_tokens = jnp.repeat(out["image_tokens"], beams, axis=0)
    texts = jnp.full((batch, beams, length), pad, jnp.int32).at[:, :, 0].set(start)
    # All beams are the same text at first: only one may be continued.
    scores = jnp.full((batch, beams), NEVER).at[:, 0].set(0.0)
    done = jnp.zeros((batch, beams), bool)

    def step(carry, at):
        texts, scores, done = carry
        logits = model.apply(
            {"params": params},
            image_tokens,
            texts.reshape(wide, length),
            method="caption_logits",
        )
        logits = jax.lax.dynamic_index_in_dim(logits, at - 1, axis=1, keepdims=False)
        vocabulary = logits.shape[-1]
        steps = jax.nn.log_softmax(logits.reshape(batch, beams, vocabulary))
        ids = jnp.arange(vocabulary)
        # Ended texts go on with padding only, for nothing; texts at the last place only end.
        steps = jnp.where((at == length - 1) & (ids != end), NEVER, steps)
        steps = jnp.where(ids == pad, NEVER, steps)
        steps = jnp.where(done[..., None], jnp.where(ids == pad, 0.0, NEVER), steps)
        total = (scores[..., None] + steps).reshape(batch, beams * vocabulary)
        scores, chosen = jax.lax.top_k(total, beams)
        parent, token = chosen // vocabulary, chosen % vocabulary
        texts = jnp.take_along_axis(texts, parent[..., None], axis=1).at[:, :, at].set(token)
        done = jnp.take_along_axis(done, parent, axis=1) | (token == end)
        return (texts, scores, done), None

    (texts, scores, _), _ = jax.lax.scan(step, (texts, scores, done), jnp.arange(1, length))
    written = (texts[..., 1:] != pad).sum(axis=-1)
    best = jnp.argmax(scores / written, axis=1)
    texts = jnp.take_along_axis(texts, best[:, None, None], axis=1)[:, 0]
    return texts, jnp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
