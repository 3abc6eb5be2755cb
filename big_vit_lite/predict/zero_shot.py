"""zero_shot: which label fits each image, by features of two towers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from big_vit_lite import report
from big_vit_lite.config import InputError
from big_vit_lite.evals import prompts
from big_vit_lite.evals.ranking import fetched, similarities
from big_vit_lite.evals.zero_shot import of_prompts, tokenized
from big_vit_lite.predict import answering, compiled, inputs, options, outputs, reading
from big_vit_lite.predict.counts import Counts
from big_vit_lite.pretrained import Pretrained

TEMPLATE = "a photo of a {}."
TEXTS = 256
"""Texts at a time; fewer where there are fewer, by halves, so that few sizes are ever compiled."""


def run(name: str, words: list[str], given: dict[str, Any]) -> None:
    """The command.

    Raises:
        InputError: wrong input, or a model that reads no texts.
        RunError: an output cannot be written, or the model gives no numbers.
    """
    labels = prompts.listed_names(given["labels"], "--labels")
    templates = prompts.templates_of([given.get("templates", TEMPLATE)], "--templates")
    paths = inputs.find(words, given.get("skip_unreadable", False))
    outputs.check(given, len(paths))
    model = compiled.model_of(name, given)
    require_texts(model, "take classify, which names its own classes")
    images = reading.images_of(model, paths, given)
    display = report.Counting("texts")
    if line := prompts.repeated(labels, "they get the same score"):
        display.say(f"--labels: {line}")
    classes = features_of_labels(model, labels, templates, display)
    top = min(given.get("top", options.TOP), len(labels))

    def best(params, seen, classes):
        image = model.encode_image(seen, params)
        cosines, found = jax.lax.top_k(similarities(image, classes), top)
        chances = probabilities(model, params, similarities(image, classes))
        chosen = jnp.take_along_axis(chances, found, axis=-1)
        return {"probability": chosen, "cosine": cosines, "class": found}

    answer = compiled.Compiled(model, best, compiled.batch_size(given, len(paths)), classes)
    answering.answer_all(answer, images, labels, given, ("probability", "cosine"))


def require_texts(model: Pretrained, instead: str) -> None:
    """Raises InputError for a model without a text tower, or whose texts cannot become tokens."""
    if model.sections.text is None:
        raise InputError(
            f"{model.source} is an image tower alone and reads no texts: {instead}, or name a pair "
            "as MODEL, such as a CLIP or SigLIP"
        )
    if model.text is None:
        raise InputError(
            f"{model.source} does not say how texts become tokens, or there is no vocabulary beside"
            " it: give --vocabulary (a tokenizer.json or spiece.model), or the whole transform as "
            "--text"
        )


def probabilities(model: Pretrained, params: Any, cosines: Float[Array, "b c"]) -> Array:
    """Of labels, from the cosines: the softmax of scale * cosine, or with a bias (SigLIP, Zhai
    2023), for which each pair is asked alone, the sigmoid of scale * cosine + bias."""
    joint, _ = model.model.apply({"params": params})
    logits = joint.scale * cosines
    return jax.nn.softmax(logits) if joint.bias is None else jax.nn.sigmoid(logits + joint.bias)


def features_of_labels(
    model: Pretrained, labels: tuple[str, ...], templates: tuple[str, ...], display: report.Counting
) -> Float32[np.ndarray, "labels e"]:
    """The mean feature of each label's prompts, of length 1, as evaluations have it."""
    # What training says around a class's name, prompts say themselves.
    text = model.tokenizer.without_templates()
    tokens = tokenized(text, labels, templates, "--templates")
    return of_prompts(encoded(model, tokens, display), len(labels))


def encoded(
    model: Pretrained, tokens: np.ndarray, display: report.Counting
) -> Float32[np.ndarray, "n e"]:
    """Features of texts, in batches of one size, the last one filled up."""
    size = min(TEXTS, max(8, 1 << (len(tokens) - 1).bit_length()))
    counts = Counts(len(tokens))

    def made():
        for start in range(0, len(tokens), size):
            rows = np.minimum(np.arange(start, start + size), len(tokens) - 1)
            yield model.encode_text(tokens[rows])

    found = []
    for features in fetched(made()):
        found.append(features)
        counts.add(min(len(found) * size, len(tokens)), 0)
        if len(tokens) > size:
            display.update(counts)
    display.close()
    return np.concatenate(found)[: len(tokens)]
