"""Feature-cached gradients against those of the whole batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, parallel
from big_vit_lite.losses import contrastive as losses
from big_vit_lite.losses.feature_cache import cached_value_and_grad
from big_vit_lite.parallel.runtime import compiler_options

PARTS = 4


def problem(batch=16, width=8, seed=0):
    """Parameters of two small towers with scale and bias, and a batch for them."""
    rng = np.random.default_rng(seed)
    params = {
        "image": rng.normal(size=(width, 5)),
        "text": rng.normal(size=(width, 5)),
        "log_scale": np.array(1.5),
        "bias": np.array(-1.0),
    }
    batch = {name: rng.normal(size=(batch, width)) for name in ("image", "text")}
    return params, batch


def encode(params, batch, key, dropout=0.0):
    """Features of length 1 of both towers."""
    features = {}
    for i, name in enumerate(("image", "text")):
        x = batch[name]
        if dropout:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - dropout, x.shape)
            x = jnp.where(kept, x / (1 - dropout), 0.0)
        x = jnp.tanh(x @ params[name])
        features[name] = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return features


def sigmoid_loss(params, features, **how):
    scale = jnp.exp(params["log_scale"])
    loss = losses.sigmoid_contrastive(
        features["image"], features["text"], scale, params["bias"], **how
    )
    return loss, {"scale": scale}


def softmax_loss(params, features):
    scale = jnp.exp(params["log_scale"])
    return losses.softmax_contrastive(features["image"], features["text"], scale), {}


def whole(encode, loss):
    """The same without a cache."""
    return jax.value_and_grad(lambda p, batch, key: loss(p, encode(p, batch, key)), has_aux=True)


def assert_same(got, wanted, rtol=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("loss", [sigmoid_loss, softmax_loss])
def test_every_gradient_is_the_whole_batchs(loss):
    params, batch = problem()
    key = jax.random.key(0)
    with jax.enable_x64(True):
        wanted = jax.jit(whole(encode, loss))(params, batch, key)
        got = jax.jit(cached_value_and_grad(encode, loss, PARTS))(params, batch, key)
        assert_same(got, wanted)
        assert abs(wanted[1]["log_scale"]) > 1e-3  # there is a gradient to get wrong


def test_differentiating_part_by_part_multiplies_the_scales_gradient_and_ours_does_not():
    """The way of open_clip's --accum-freq: for each part, its features are computed again, put in
    their place among the cached ones, and the whole loss is differentiated; gradients add up."""
    params, batch = problem()
    key = jax.random.key(0)
    with jax.enable_x64(True):

        @jax.jit
        def theirs(params):
            cached = jax.lax.stop_gradient(encode(params, batch, key))
            total = jax.tree.map(jnp.zeros_like, params)
            for part in range(PARTS):
                rows = slice(part * 4, part * 4 + 4)

                def loss(params, rows=rows):
                    new = encode(params, jax.tree.map(lambda x: x[rows], batch), key)
                    every = jax.tree.map(lambda old, new: old.at[rows].set(new), cached, new)
                    return sigmoid_loss(params, every)[0]

                total = jax.tree.map(jnp.add, total, jax.grad(loss)(params))
            return total

        wanted = jax.jit(whole(encode, sigmoid_loss))(params, batch, key)[1]
        wrong = theirs(params)
        right = jax.jit(cached_value_and_grad(encode, sigmoid_loss, PARTS))(params, batch, key)[1]
        for name in ("image", "text"):
            np.testing.assert_allclose(wrong[name], wanted[name], rtol=1e-10)
        for name in ("log_scale", "bias"):
            np.testing.assert_allclose(wrong[name], PARTS * wanted[name], rtol=1e-10)
            np.testing.assert_allclose(right[name], wanted[name], rtol=1e-10)


def test_dropout_falls_alike_in_both_passes():
    """Against one pass through all parts with the keys that are promised."""
    params, batch = problem()
    key = jax.random.key(7)
    drop = partial(encode, dropout=0.2)

    def at_once(params, batch, key):
        parts = [
            drop(params, {name: x[j::PARTS] for name, x in batch.items()}, part_key)
            for j, part_key in enumerate(jax.random.fold_in(key, j) for j in range(PARTS))
        ]
        return jax.tree.map(lambda *x: jnp.stack(x, 1).reshape(-1, 5), *parts)

    with jax.enable_x64(True):
        wanted = jax.jit(whole(at_once, sigmoid_loss))(params, batch, key)
        cached = jax.jit(cached_value_and_grad(drop, sigmoid_loss, PARTS))
        assert_same(cached(params, batch, key), wanted)
        other = cached(params, batch, jax.random.key(8))
        assert np.abs(other[1]["image"] - wanted[1]["image"]).max() > 1e-3  # dropout drops


def test_sharded_over_eight_devices_with_a_ring():
    params, batch = problem(batch=32)
    key = jax.random.key(0)
    mesh = parallel.make_mesh(config.Mesh(data=4, fsdp=2))
    loss = partial(sigmoid_loss, form="ring")
    with jax.enable_x64(True):
        wanted = jax.jit(whole(encode, sigmoid_loss))(params, batch, key)
        with jax.set_mesh(mesh):
            batch = jax.device_put(batch, parallel.batch_sharding(mesh))
            got = jax.jit(cached_value_and_grad(encode, loss, 2))(params, batch, key)
        assert_same(got, wanted)


def test_memory_shrinks_with_the_number_of_parts():
    """A deep, wide tower: its activations are most of the memory."""

    def deep(params, batch, key):
        x = batch
        for _ in range(6):
            x = jnp.tanh(x @ params["w"])
        return {"image": x[:, :16], "text": x[:, 16:32]}

    params = {"w": jnp.zeros((128, 128)), "log_scale": jnp.zeros(()), "bias": jnp.zeros(())}
    loss = partial(sigmoid_loss, form="chunked", chunk=32)
    mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])

    def temporaries(function):
        batch = jax.ShapeDtypeStruct((4096, 128), jnp.float32)
        lowered = jax.jit(function).lower(params, batch, jax.random.key(0))
        return lowered.compile(compiler_options(mesh)).memory_analysis().temp_size_in_bytes

    all_at_once, four, sixteen = (
        temporaries(f)
        for f in (
            whole(deep, loss),
            cached_value_and_grad(deep, loss, 4),
            cached_value_and_grad(deep, loss, 16),
        )
    )
    assert four < 0.75 * all_at_once, (all_at_once, four, sixteen)
    assert sixteen < 0.9 * four, (all_at_once, four, sixteen)


def test_parts_that_do_not_divide_are_said():
    params, batch = problem()
    with pytest.raises(config.InputError, match="parts=0 is no number of parts"):
        cached_value_and_grad(encode, sigmoid_loss, 0)
    with pytest.raises(config.InputError, match="A batch of 16 does not divide into 3 parts"):
        cached_value_and_grad(encode, sigmoid_loss, 3)(params, batch, jax.random.key(0))
