"""Batches that do not fit: the whole batch's contrastive gradient, a part of the batch at a time.

GradCache (Gao 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
Averaging gradients of small batches is another loss, with fewer negatives. This is the same loss:
features are small, only the towers' activations are not, so every part is encoded twice, once for
the features and once for the gradient through them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from big_vit_lite import config
from big_vit_lite.parallel.mesh import constrain

Tree = Any
Encode = Callable[[Tree, Tree, Array], Tree]
"""(params, rows of the batch, key) -> features, a tree of arrays with one row an example."""
Loss = Callable[[Tree, Tree], tuple[Array, Any]]
"""(params, features of the whole batch) -> (loss, metrics); takes scale and bias from params."""


def cached_value_and_grad(encode: Encode, loss: Loss, parts: int):
    """The gradient of loss(params, encode(params, batch, key)) without holding its activations.

    In three passes: features of each part, keeping nothing else; the loss of all features and its
    gradient with respect to them, and to what the loss takes from params itself (scale, bias);
    each part encoded again, to pull its features' gradient back to params. Part j has the key
    fold_in(key, j) both times, so that dropout falls alike. The gradient is the whole batch's for
    every parameter. (Where each part's loss is differentiated in turn, as open_clip does for
    --accum-freq, scale and bias get `parts` times theirs.)

    Args:
        encode: its rows must not depend on each other (no batch norm).
        loss: anything of all features; one of contrastive.py, say.
        parts: how often the batch is divided. Part j takes rows j, j + parts, ...: every device
            then holds an equal share of each part, and nothing moves between devices.

    Returns:
        f(params, batch, key) -> ((loss, metrics), gradient), for use under jit. It raises
        InputError for a batch that does not divide.
    """
    if parts < 1:
        raise config.InputError(f"parts={parts} is no number of parts; give 1 or more.")

    def value_and_grad(params: Tree, batch: Tree, key: Array):
        divided = jax.tree.map(lambda x: divide(x, parts), batch)
        numbers = jnp.arange(parts)

        def encode_part(params: Tree, part: Tree, number: Array) -> Tree:
            part = jax.tree.map(constrain, part)
            features = encode(params, part, jax.random.fold_in(key, number))
            return jax.tree.map(constrain, features)

        with jax.named_scope("features"):
            _, cached = jax.lax.scan(
                lambda _, x: (None, encode_part(params, *x)), None, (divided, numbers)
            )
        features = jax.tree.map(lambda x: constrain(join(x)), cached)
        with jax.named_scope("loss"):
            result, (grads, of_features) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
                params, features
            )

        def add_part(grads: Tree, x: tuple):
            part, number, of_part = x
            _, pull = jax.vjp(lambda p: encode_part(p, part, number), params)
            (new,) = pull(jax.tree.map(constrain, of_part))
            return jax.tree.map(jnp.add, grads, new), None

        of_features = jax.tree.map(lambda x: divide(x, parts), of_features)
        with jax.named_scope("gradient"):
            grads, _ = jax.lax.scan(add_part, grads, (divided, numbers, of_features))
        return result, grads

    return value_and_grad


def divide(x: Shaped[Array, "b ..."], parts: int) -> Shaped[Array, "parts c ..."]:
    """Part j holds rows j, j + parts, ..."""
    if x.shape[0] % parts:
        raise config.InputError(
            f"A batch of {x.shape[0]} does not divide into {parts} parts; choose a divisor."
        )
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def join(x: Shaped[Array, "parts c ..."]) -> Shaped[Array, "b ..."]:
    """The rows of all parts, in the batch's order."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
