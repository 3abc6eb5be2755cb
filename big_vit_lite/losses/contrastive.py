"""Contrastive losses of image and text features: softmax (CLIP), sigmoid (SigLIP), distillation.

Row i of `image` and row i of `text` match; every other pair of the global batch is a negative. The
caller normalises features to length 1 where the paper does, and gives the logit scale itself (CLIP
and SigLIP learn its logarithm). Every loss takes `form`, how the matrix of pairs is walked: "full",
"chunked" or "ring" (see pairwise.py). All give the same number and the same gradients; the last two
need memory in proportion to the batch, not to its square. Under jit with `jax.set_mesh` the batch
is the global one, split over (data, fsdp).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from big_vit_lite import config
from big_vit_lite.losses import pairwise
from big_vit_lite.losses.negatives import (
    Negatives,
    log_sums,
    masks,
    matching,
    negative_log_sums,
)
from big_vit_lite.losses.pairwise import CHUNK, MASKED, SUM, Form

Features = Float[Array, "b d"]
Scalar = Float[Array, ""]
ALL = Negatives()


def softmax_contrastive(
    image: Features,
    text: Features,
    scale: Scalar,
    *,
    label_smoothing: float = 0.0,
    negatives: Negatives = ALL,
    form: Form = "full",
    chunk: int = CHUNK,
) -> Scalar:
    """Symmetric cross-entropy of logits scale * image text^T, in nats (Radford 2021, fig. 3).

    L = 1/2b sum_i (-log softmax(logits_i,:)_i - log softmax(logits_:,i)_i).

    Args:
        scale: exp of CLIP's learned parameter, 1/temperature. A bias would cancel.
        label_smoothing: that share of every target goes to all pairs of the row (of the column)
            alike; it costs nothing in any form, as the mean of all logits is a product of means.
        negatives: which count, and how much.
        chunk: rows of a block, for the forms that walk in blocks.
    """
    _check(image, text)
    if not 0 <= label_smoothing <= 1:
        raise config.InputError(f"label_smoothing={label_smoothing} is no share; give 0 to 1.")
    positive = scale * matching(image, text)
    rows, columns = negative_log_sums(image, text, scale, negatives, form, chunk)
    # log(1 + negatives / positive): exact where the positive outweighs all others by far.
    loss = 0.5 * jnp.mean(jax.nn.softplus(rows - positive) + jax.nn.softplus(columns - positive))
    if label_smoothing:
        mean = scale * matching(_mean(image)[None], _mean(text)[None])[0]
        loss += label_smoothing * (jnp.mean(positive) - mean)
    return loss


def sigmoid_contrastive(
    image: Features,
    text: Features,
    scale: Scalar,
    bias: Scalar,
    *,
    negatives: Negatives = ALL,
    form: Form = "full",
    chunk: int = CHUNK,
) -> Scalar:
    """Sigmoid loss over all pairs, divided by the batch (Zhai 2023, eq. 1).

    L = -1/b sum_ij w_ij log sigmoid(y_ij (scale * image_i . text_j + bias)), y = 1 for matching
    pairs and -1 for others, w = 1. With a choice of `negatives` the weight of a negative is the
    mean of its weights in its row and in its column, held constant in the gradient: a gradient
    through it would be paid for making hard pairs light.
    """
    _check(image, text)
    negatives.check()
    scale, bias = jnp.asarray(scale), jnp.asarray(bias)
    positive = scale * matching(image, text) + bias
    sums = None
    if negatives.hardness:
        sums = jax.lax.stop_gradient(
            log_sums(image, text, scale, (negatives.hardness,), None, form, chunk)
        )
    total = _negative_pairs(image, text, scale, bias, sums, negatives, form, chunk)
    return (jnp.sum(jax.nn.softplus(-positive)) + total) / len(image)


def contrastive_distillation(
    image: Features,
    text: Features,
    scale: Scalar,
    teacher_image: Float[Array, "b e"],
    teacher_text: Float[Array, "b e"],
    teacher_scale: Scalar,
    *,
    form: Form = "full",
    chunk: int = CHUNK,
) -> Scalar:
    """Cross-entropy of the student's softmax to the teacher's, mean of both directions, in nats.

    L = -1/2b sum_ij (p^T_ij log p_ij over rows + the same over columns), as open_clip's
    DistillClipLoss and CLIP-KD (Yang 2024). The teacher gets no gradient; its features may
    have another width.
    """
    _check(image, text)
    _check(teacher_image, teacher_text)
    teacher = jax.lax.stop_gradient((teacher_image, teacher_text, jnp.asarray(teacher_scale)))
    teacher_sums = _whole_log_sums(*teacher, form, chunk)
    rows, columns = _whole_log_sums(image, text, scale, form, chunk)
    agreement = _agreement(image, text, teacher, teacher_sums, form, chunk)
    return 0.5 * jnp.mean(rows + columns) - scale * agreement / len(image)


def margin_contrastive(
    first: Float[Array, "*b d"],
    second: Float[Array, "*b d"],
    different: Bool[Array, "*b"],
    margin: float = 1.0,
) -> Float[Array, "*b"]:
    """Siamese loss of pairs: d^2 for the same, max(0, margin - d)^2 for different ones.

    d is the Euclidean distance. Hadsell 2006, "Dimensionality Reduction by Learning an Invariant
    Mapping", eq. 4, without its factor 1/2; there too Y = 1 means different, which copies of the
    equation often swap. One value per pair; shapes broadcast, so that first[:, None] and
    second[None] give all pairs of a batch.
    """
    squared = jnp.sum(jnp.square(first - second), axis=-1)
    apart = squared > 0
    # The root has no slope at 0: two equal features of different things are not pushed apart.
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return jnp.where(different, jnp.square(jnp.maximum(0.0, margin - distance)), squared)


def _check(image: Array, text: Array) -> None:
    if image.ndim != 2 or image.shape != text.shape:
        raise config.InputError(
            f"Features of matching images and texts have one shape (batch, width); these have "
            f"{image.shape} and {text.shape}."
        )


def _mean(x: Array) -> Array:
    return jnp.mean(x.astype(pairwise.accumulator(x)), axis=0)


def _whole_log_sums(x, y, scale, form, chunk):
    """log sum exp of whole rows and columns, matching pairs included."""
    positive = scale * matching(x, y)
    rows, columns = negative_log_sums(x, y, scale, ALL, form, chunk)
    return jnp.logaddexp(rows, positive), jnp.logaddexp(columns, positive)


def _pair_block(negatives, batch, with_gradient, rows, columns, first_row, first_column):
    """Sigmoid losses of a block's negatives, and their gradients with respect to similarities."""
    (x, row, row_sums, scale, bias), (y, column, column_sums) = rows, columns
    s = pairwise.similarity(x, y)
    logits = scale * s + bias
    of_row, of_column = masks(negatives.semi_hard, s, row, column, first_row, first_column)
    if negatives.hardness:
        power = negatives.hardness * scale
        weight = jnp.exp(jnp.where(of_row, power * s - row_sums[:, None], MASKED))
        weight += jnp.exp(jnp.where(of_column, power * s - column_sums[None, :], MASKED))
        weight *= 0.5 * (batch - 1)
    elif negatives.semi_hard is not None:
        weight = 0.5 * (of_row.astype(s.dtype) + of_column)
    else:
        # A logit of -1e30 has neither loss nor gradient: cheaper than a weight of 0.
        weight, logits = 1.0, jnp.where(of_row, logits, MASKED)
    # softplus, without jax.nn.softplus's care for infinities: a third of its time on CPU.
    softplus = jnp.maximum(logits, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    losses = jnp.sum(weight * softplus, axis=1)
    if not with_gradient:
        return (losses,), ()
    g = weight * jax.nn.sigmoid(logits)
    gy, gx = pairwise.pull_back(g, x, y)
    return (losses, gy, jnp.sum(g, axis=1)), (gx,)


def _walk_pairs(x, y, scale, bias, sums, negatives, form, chunk, with_gradient):
    pair = matching(x, y)
    rows, columns = (None, None) if sums is None else (sums[0][0], sums[1][0])
    return pairwise.walk(
        partial(_pair_block, negatives, len(x), with_gradient),
        (x, pair, rows, scale, bias),
        (y, pair, columns),
        SUM,
        form,
        chunk,
    )


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _negative_pairs(x, y, scale, bias, sums, negatives, form, chunk) -> Scalar:
    """sum over negatives of w_ij softplus(scale * x_i.y_j + bias)."""
    (losses,), _ = _walk_pairs(x, y, scale, bias, sums, negatives, form, chunk, False)
    return jnp.sum(losses)


def _negative_pairs_forward(x, y, scale, bias, sums, negatives, form, chunk):
    # A pair's gradient needs no other pair, so it comes with the loss: logits are computed once.
    (losses, gy, g), (gx,) = _walk_pairs(x, y, scale, bias, sums, negatives, form, chunk, True)
    kept = (
        (scale * gy).astype(x.dtype),
        (scale * gx).astype(y.dtype),
        jnp.sum(gy * x).astype(scale.dtype),
        jnp.sum(g).astype(bias.dtype),
    )
    return jnp.sum(losses), (kept, sums)


def _negative_pairs_backward(negatives, form, chunk, kept, cotangent):
    gradients, sums = kept
    scaled = jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients)
    return *scaled, jax.tree.map(jnp.zeros_like, sums)


_negative_pairs.defvjp(_negative_pairs_forward, _negative_pairs_backward)


def _agreement_block(rows, columns, first_row, first_column):
    """The teacher's probabilities of a block, times y for rows and times x for columns."""
    (x, tx, scale, row_sums), (y, ty, column_sums) = rows, columns
    logits = scale * pairwise.similarity(tx, ty)
    p = jnp.exp(logits - row_sums[:, None]) + jnp.exp(logits - column_sums[None, :])
    return pairwise.pull_back(0.5 * p, x, y)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _agreement(x, y, teacher, teacher_sums, form, chunk) -> Scalar:
    """sum_ij p_ij x_i.y_j with the teacher's p, the mean of its softmax over rows and columns."""
    return _agreement_forward(x, y, teacher, teacher_sums, form, chunk)[0]


def _agreement_forward(x, y, teacher, teacher_sums, form, chunk):
    teacher_x, teacher_y, scale = teacher
    py, px = pairwise.walk(
        _agreement_block,
        (x, teacher_x, scale, teacher_sums[0]),
        (y, teacher_y, teacher_sums[1]),
        SUM,
        form,
        chunk,
    )
    return jnp.sum(py * x), (py.astype(x.dtype), px.astype(y.dtype), teacher, teacher_sums)


def _agreement_backward(form, chunk, kept, cotangent):
    py, px, *teacher = kept
    zeros = jax.tree.map(jnp.zeros_like, tuple(teacher))
    return (cotangent * py).astype(py.dtype), (cotangent * px).astype(px.dtype), *zeros


_agreement.defvjp(_agreement_forward, _agreement_backward)
