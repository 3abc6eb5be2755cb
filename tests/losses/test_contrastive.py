"""Contrastive losses: every walk over the pairs, on 1, 2 and 8 devices, against float64 numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, parallel
from big_vit_lite.losses import contrastive as losses
from big_vit_lite.parallel.runtime import compiler_options

SCALE, SIGMOID_SCALE, BIAS = 14.0, 10.0, -2.5


def features(batch, width=12, seed=0):
    """Images and texts of length 1 that float32 holds exactly."""
    x, y = np.random.default_rng(seed).normal(size=(2, batch, width))
    y += 0.5 * x  # matching pairs are somewhat alike
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    return [a.astype(np.float32).astype(np.float64) for a in unit]


def softmax_by_hand(x, y, scale):
    """The loss and its gradients with respect to images, texts and scale."""
    s, b = x @ y.T, len(x)
    p = np.exp(scale * s)
    p_row, p_column = p / p.sum(1, keepdims=True), p / p.sum(0)
    loss = -(np.log(np.diag(p_row)) + np.log(np.diag(p_column))).sum() / (2 * b)
    g = (p_row + p_column - 2 * np.eye(b)) / (2 * b)
    return loss, (scale * g @ y, scale * g.T @ x, (g * s).sum())


def sigmoid_by_hand(x, y, scale, bias):
    """The loss and its gradients with respect to images, texts, scale and bias."""
    s, b = x @ y.T, len(x)
    sign = 2 * np.eye(b) - 1
    z = sign * (scale * s + bias)
    g = -sign / (1 + np.exp(z)) / b
    return np.log1p(np.exp(-z)).sum() / b, (scale * g @ y, scale * g.T @ x, (g * s).sum(), g.sum())


def assert_close(got, wanted, share):
    """Every array to `share` of the largest value of the wanted one."""
    got, wanted = jax.tree.leaves(got), jax.tree.leaves(wanted)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=share * np.max(np.abs(b)))


def both(form, chunk):
    """Loss and gradients of softmax and sigmoid, in float64 and float32, as one program."""

    def compute(x, y):
        found = []
        for dtype in (jnp.float64, jnp.float32):
            a, b, scale, sigmoid_scale, bias = (
                jnp.asarray(v, dtype) for v in (x, y, SCALE, SIGMOID_SCALE, BIAS)
            )
            softmax = jax.value_and_grad(
                lambda *v: losses.softmax_contrastive(*v, form=form, chunk=chunk), (0, 1, 2)
            )(a, b, scale)
            sigmoid = jax.value_and_grad(
                lambda *v: losses.sigmoid_contrastive(*v, form=form, chunk=chunk), (0, 1, 2, 3)
            )(a, b, sigmoid_scale, bias)
            found.append((softmax, sigmoid))
        return found

    return jax.jit(compute)


@pytest.mark.parametrize(
    "sizes, form",
    [
        *itertools.product([None, (2, 1, 1), (4, 2, 1)], ["full", "chunked", "ring"]),
        pytest.param((2, 2, 2), "ring", marks=pytest.mark.slow),
    ],
)
def test_every_walk_gives_the_whole_matrix(sizes, form):
    x, y = features(48)
    wanted = softmax_by_hand(x, y, SCALE), sigmoid_by_hand(x, y, SIGMOID_SCALE, BIAS)
    with jax.enable_x64(True):
        if sizes is None:  # no mesh at all
            exact, single = both(form, chunk=20)(jnp.asarray(x), jnp.asarray(y))
        else:
            data, fsdp, tensor = sizes
            devices = jax.devices()[: data * fsdp * tensor]
            mesh = parallel.make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor), devices)
            with jax.set_mesh(mesh):
                x, y = jax.device_put((x, y), parallel.batch_sharding(mesh))
                exact, single = both(form, chunk=5)(x, y)
            gradient = single[0][1][0]
            assert gradient.sharding.shard_shape(gradient.shape)[0] == 48 // (data * fsdp)
        assert exact[0][0].dtype == jnp.float64 and single[0][0].dtype == jnp.float32
        assert_close(exact, wanted, 1e-10)
        assert_close(single, wanted, 1e-6)


def test_without_gradients_the_loss_is_the_same():
    x, y = features(12)
    with jax.enable_x64(True):
        loss = jax.jit(losses.sigmoid_contrastive, static_argnames=("form", "chunk"))
        got = loss(x, y, SIGMOID_SCALE, BIAS, form="chunked", chunk=5)
        np.testing.assert_allclose(got, sigmoid_by_hand(x, y, SIGMOID_SCALE, BIAS)[0], rtol=1e-12)


def compiled(name, form, batch, chunk=64):
    """A loss's program for 8 devices with all its gradients; nothing runs."""
    mesh = parallel.make_mesh(config.Mesh(data=4, fsdp=2))
    loss, scalars = {
        "softmax": (losses.softmax_contrastive, 1),
        "sigmoid": (losses.sigmoid_contrastive, 2),
    }[name]
    rows = jax.ShapeDtypeStruct((batch, 64), jnp.float32, sharding=parallel.batch_sharding(mesh))
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=parallel.replicated(mesh))
    with jax.set_mesh(mesh):
        function = jax.value_and_grad(
            lambda *v: loss(*v, form=form, chunk=chunk), tuple(range(2 + scalars))
        )
        lowered = jax.jit(function).lower(rows, rows, *[scalar] * scalars)
        return lowered.compile(compiler_options(mesh))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_memory_grows_with_the_batch_where_the_full_matrix_grows_with_its_square(name):
    def growth(form):
        small, large = (
            compiled(name, form, batch).memory_analysis().temp_size_in_bytes
            for batch in (2048, 8192)
        )
        return large / small

    assert growth("full") > 12
    assert growth("chunked") < 4.4
    assert growth("ring") < 4.4


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_a_ring_holds_the_features_of_one_neighbour_at_a_time(name):
    program = compiled(name, "ring", 1024)
    text = program.as_text()
    assert "collective-permute" in text
    # Only sums over the batch are gathered in any way, of scale, bias and loss.
    assert "all-gather" not in text and "reduce-scatter" not in text
    # Never an array with a row for each example of the batch.
    assert "[1024" not in text
    assert "[1024,64]" in compiled(name, "chunked", 1024).as_text()


def test_equal_similarities_cost_log_of_the_batch():
    x = jnp.ones((32, 4))
    np.testing.assert_allclose(
        losses.softmax_contrastive(x, x, 3.0, form="chunked"), np.log(32), rtol=1e-6
    )
    # Of 32 x 32 pairs with logit 0 each costs log 2.
    zero = losses.sigmoid_contrastive(x, x, 1.0, -4.0, form="chunked")
    np.testing.assert_allclose(zero, 32 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("form", ["full", "chunked"])
def test_logits_of_any_size_give_finite_losses_and_gradients(form):
    x, y = (jnp.asarray(a, jnp.float32) for a in features(6, 4))

    @jax.jit
    def compute(scale):
        softmax = jax.value_and_grad(
            lambda *v: losses.softmax_contrastive(*v, form=form, chunk=4), (0, 1, 2)
        )
        sigmoid = jax.value_and_grad(
            lambda *v: losses.sigmoid_contrastive(*v, form=form, chunk=4), (0, 1, 2, 3)
        )
        return softmax(x, y, scale), sigmoid(x, y, scale, 0.0)

    for scale in (0.0, 1e4, -1e4):
        assert all(np.isfinite(v).all() for v in jax.tree.leaves(compute(scale))), scale


def test_a_pair_alone_has_no_negatives():
    x, y = (jnp.asarray(a) for a in features(1))
    for negatives in (losses.ALL, losses.Negatives(hardness=0.5), losses.Negatives(semi_hard=0.1)):

        def compute(x, y, scale, negatives=negatives):
            softmax = jax.value_and_grad(
                lambda *v: losses.softmax_contrastive(*v, negatives=negatives), (0, 1, 2)
            )
            sigmoid = losses.sigmoid_contrastive(x, y, scale, -1.0, negatives=negatives)
            return softmax(x, y, scale), sigmoid

        (loss, grads), sigmoid = jax.jit(compute)(x, y, 10.0)
        assert loss == 0 and not any(np.any(g) for g in jax.tree.leaves(grads))
        logit = 10 * (x * y).sum() - 1
        np.testing.assert_allclose(sigmoid, np.log1p(np.exp(-logit)), rtol=1e-5)


def test_a_pair_learned_well_keeps_its_digits_in_float32():
    """Negatives 30 below: 1 - softmax is lost in float32 unless it is summed over negatives."""
    x = np.eye(8, dtype=np.float32)
    compute = jax.jit(jax.value_and_grad(losses.softmax_contrastive, (0, 1)))
    loss, (gradient, _) = compute(x, x, 30.0)
    np.testing.assert_allclose(loss, 7 * np.exp(-30.0), rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0], -30 / 8 * 7 * np.exp(-30.0), rtol=1e-5)


def test_bfloat16_features_are_summed_in_float32():
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in features(64))
    exact = [np.asarray(a, np.float64) for a in (x, y)]
    wanted, (wanted_gradient, *_) = softmax_by_hand(*exact, SCALE)
    for form in ("full", "chunked"):
        loss, (gradient, _) = jax.jit(
            jax.value_and_grad(
                lambda *v, f=form: losses.softmax_contrastive(*v, SCALE, form=f, chunk=20), (0, 1)
            )
        )(x, y)
        assert loss.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(loss, wanted, rtol=1e-6)
        assert_close(gradient.astype(jnp.float32), wanted_gradient, 1e-2)


def test_what_cannot_be_computed_is_said():
    x, y = (jnp.asarray(a) for a in features(12))
    with pytest.raises(config.InputError, match=r"one shape .* these have \(12, 12\) and \(11, 12"):
        losses.softmax_contrastive(x, y[:-1], 1.0)
    with pytest.raises(config.InputError, match="form='tree' is none of full, chunked, ring"):
        losses.sigmoid_contrastive(x, y, 1.0, 0.0, form="tree")
    with pytest.raises(config.InputError, match="chunk=0 rows make no block"):
        losses.sigmoid_contrastive(x, y, 1.0, 0.0, form="chunked", chunk=0)
    with (
        jax.set_mesh(parallel.make_mesh()),
        pytest.raises(config.InputError, match="12 pairs does not divide over 8 devices"),
    ):
        losses.softmax_contrastive(x, y, 1.0, form="ring")
