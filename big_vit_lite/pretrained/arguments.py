"""What a loaded model's functions of arrays are given, checked where the arrays' numbers are known.

Shapes and types are known within jit, vmap and grad, too, and numbers are not: there, ids outside
of the vocabulary give NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.pretrained import images as inputs


def is_tokens(texts: Any, tower: config.Text) -> bool:
    """Whether it is an array of token ids (b, l), or else text.

    Raises:
        InputError: ids of another shape, or outside of the tower's vocabulary.
    """
    dtype = getattr(texts, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        return False
    if texts.ndim != 2:
        raise InputError(
            f"tokens are whole numbers (b, l), and these are {tuple(texts.shape)}: give a row for "
            "each text, as tokenize(texts) returns them."
        )
    if isinstance(texts, jax.core.Tracer | jax.ShapeDtypeStruct) or not texts.size:
        return True
    least, most = int(texts.min()), int(texts.max())
    if least < 0 or most >= tower.vocabulary:
        raise InputError(
            f"the token id {least if least < 0 else most:,} is outside of the text tower's "
            f"vocabulary, whose ids are 0 to {tower.vocabulary - 1:,}: make tokens with "
            "tokenize(texts)."
        )
    return True


def check_apply(
    images: Any, texts: Any, capture: tuple[str, ...], tower: config.Text | None
) -> None:
    """Raises InputError for what `apply` does not take."""
    if images is not None and not inputs.is_preprocessed(images):
        raise InputError(
            f"apply takes images as preprocess(images) returns them, floats (b, h, w, c), and this "
            f"is {_kind(images)}: preprocess it, or take encode_image or logits."
        )
    if texts is not None and tower is not None and not is_tokens(texts, tower):
        raise InputError(
            f"apply takes texts as tokenize(texts) returns them, whole numbers (b, l), and this is "
            f"{_kind(texts)}: tokenize it, or take encode_text or logits."
        )
    if isinstance(capture, str):
        raise InputError(f"capture is a tuple of names: give capture=({capture!r},).")


def _kind(given: Any) -> str:
    dtype = getattr(given, "dtype", None)
    return type(given).__name__ if dtype is None else f"{dtype} {tuple(given.shape)}"
