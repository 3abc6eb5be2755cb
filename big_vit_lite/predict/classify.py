"""classify: the likeliest classes of each image, by the head of a classifier."""

from __future__ import annotations

from typing import Any

import jax

from big_vit_lite.config import InputError
from big_vit_lite.predict import answering, compiled, inputs, options, outputs, reading


def run(name: str, words: list[str], given: dict[str, Any]) -> None:
    """The command.

    Raises:
        InputError: wrong input, or a model without a head for classes.
        RunError: an output cannot be written, or the model gives no numbers.
    """
    paths = inputs.find(words, given.get("skip_unreadable", False))
    outputs.check(given, len(paths))
    model = compiled.model_of(name, given)
    if model.sections.text is not None:
        raise InputError(
            f"{model.source} has two towers and no classes of its own: take zero_shot with --labels"
        )
    if not model.classifies:
        raise InputError(f"{model.source} has no head for classes: take embed")
    images = reading.images_of(model, paths, given)
    size = compiled.batch_size(given, len(paths))
    classes = jax.eval_shape(model.chances, compiled.blank(model, images)).shape[-1]
    top = min(given.get("top", options.TOP), classes)

    def best(params, seen):
        chances, found = jax.lax.top_k(model.chances(seen, params), top)
        return {"probability": chances, "class": found}

    names = model.class_names or tuple(str(i) for i in range(classes))
    answering.answer_all(
        compiled.Compiled(model, best, size), images, names, given, ("probability",)
    )
