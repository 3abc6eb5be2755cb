"""Cross-entropies against a distribution over classes, one value per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def smooth_labels(
    labels: Int[Array, "*b"], classes: int, smoothing: float = 0.0
) -> Float[Array, "*b classes"]:
    """q = (1 - smoothing) * one_hot + smoothing / classes (Szegedy 2016, eq. 7)."""
    return jax.nn.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes


def softmax_cross_entropy(
    logits: Float[Array, "*b classes"], targets: Float[Array, "*b classes"]
) -> Float[Array, "*b"]:
    """-sum_k q_k log softmax(logits)_k, in nats; targets need not be one-hot."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)


def sigmoid_cross_entropy(
    logits: Float[Array, "*b classes"], targets: Float[Array, "*b classes"]
) -> Float[Array, "*b"]:
    """Sum over classes of binary cross-entropies, in nats (Beyer 2020, for ImageNet ReaL).

    Each class is a yes-or-no question of its own; the sum, not the mean, keeps learning rates
    comparable with softmax. A head bias near -log(classes) starts it at a sensible loss.
    """
    logits = logits.astype(jnp.float32)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.sum(targets * yes + (1.0 - targets) * no, axis=-1)
