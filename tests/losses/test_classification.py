"""Losses against closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite.losses import classification as losses


def test_smoothed_labels_are_a_distribution():
    q = np.asarray(losses.smooth_labels(jnp.array([2, 0]), 5, 0.1))
    np.testing.assert_allclose(q.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(q[0], [0.02, 0.02, 0.92, 0.02, 0.02], rtol=1e-6)
    np.testing.assert_array_equal(losses.smooth_labels(jnp.array([1]), 3), [[0.0, 1.0, 0.0]])


def test_equal_logits_cost_log_of_the_number_of_classes():
    targets = losses.smooth_labels(jnp.arange(7), 7)
    loss = losses.softmax_cross_entropy(jnp.full((7, 7), 3.0), targets)
    np.testing.assert_allclose(loss, np.log(7.0), rtol=1e-6)


def test_softmax_cross_entropy_in_float64_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 9)) * 4
    targets = rng.dirichlet(np.ones(9), size=6)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    wanted = -(targets * np.log(p)).sum(-1)
    got = losses.softmax_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    # The gradient is p - q; its sum over classes vanishes, which no other loss here shares.
    grad = jax.grad(lambda z: losses.softmax_cross_entropy(z, jnp.asarray(targets)).sum())(
        jnp.asarray(logits, jnp.float32)
    )
    np.testing.assert_allclose(grad, p - targets, atol=1e-6)


def test_sigmoid_cross_entropy_sums_over_classes_and_survives_large_logits():
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(4, 5)) * 3, rng.integers(0, 2, (4, 5)).astype(float)
    p = 1 / (1 + np.exp(-logits))
    wanted = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(-1)
    got = losses.sigmoid_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    big = losses.sigmoid_cross_entropy(jnp.array([[200.0, -200.0]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(big, 0.0, atol=1e-6)
    wrong = losses.sigmoid_cross_entropy(jnp.array([[-200.0, 0.0]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(wrong, 200.0 + np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_gradients_by_finite_differences(loss):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=5)
    targets = jnp.asarray(rng.dirichlet(np.ones(5)))
    with jax.enable_x64(True):
        # float32 inside the loss bounds the step from below.
        grad = jax.grad(lambda z: loss(z, targets))(jnp.asarray(logits))
        for i in range(5):
            e = np.eye(5)[i] * 1e-2
            slope = (
                loss(jnp.asarray(logits + e), targets) - loss(jnp.asarray(logits - e), targets)
            ) / 2e-2
            np.testing.assert_allclose(grad[i], slope, atol=1e-4)
