"""Stacked and unstacked layers in parameters and in optimiser states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vit_lite import models


def params(layers: int = 3) -> dict:
    block = lambda i: {"Dense_0": {"kernel": np.full((2, 3), i), "bias": np.full(3, -i)}}  # noqa: E731
    stack = {f"encoderblock_{i}": block(i) for i in range(layers)}
    return {"cls": np.zeros(3), "Transformer": stack | {"encoder_norm": {"scale": np.ones(3)}}}


def assert_equal(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parameters_go_there_and_back():
    stacked = models.stack_layers(params())
    assert set(stacked["Transformer"]) == {"encoderblock", "encoder_norm"}
    kernel = stacked["Transformer"]["encoderblock"]["Dense_0"]["kernel"]
    assert isinstance(kernel, np.ndarray)
    assert kernel.shape == (3, 2, 3)
    assert kernel[2, 0, 0] == 2
    assert_equal(models.unstack_layers(stacked), params())
    assert_equal(models.unstack_layers(params()), params())
    assert_equal(models.stack_layers(stacked), stacked)


def test_more_than_ten_layers_keep_their_order():
    stacked = models.stack_layers(params(12))
    order = stacked["Transformer"]["encoderblock"]["Dense_0"]["kernel"][:, 0, 0]
    np.testing.assert_array_equal(order, np.arange(12))


def test_a_whole_training_state_goes_there_and_back():
    kernels = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)  # noqa: E731
    heads_only = lambda tree: jax.tree.map(lambda x: x.shape == (7,), tree)  # noqa: E731
    tx = optax.chain(
        optax.scale_by_adam(),
        optax.masked(optax.trace(0.9), kernels),
        optax.masked(optax.trace(0.9), heads_only),
    )
    tree = jax.tree.map(jnp.asarray, params()) | {"head": jnp.ones(7)}
    stacked = models.stack_layers(tree)
    state = {"step": jnp.int32(4), "params": tree, "opt_state": tx.init(tree), "ema": tree}
    # Masks by rank: a stacked bias has one axis more, so the mask is stacked, not computed again.
    other = models.stack_layers(state)
    assert_equal(other["params"], stacked)
    assert_equal(other["opt_state"][0].mu, jax.tree.map(jnp.zeros_like, stacked))
    assert_equal(models.unstack_layers(other), state)


def test_abstract_trees_and_tracers():
    tree = jax.tree.map(jnp.asarray, params())
    abstract = jax.eval_shape(lambda: tree)
    traced = jax.eval_shape(models.stack_layers, tree)
    assert models.stack_layers(abstract) == traced
    assert models.unstack_layers(traced) == abstract


def test_a_missing_layer_is_named():
    tree = params()
    del tree["Transformer"]["encoderblock_1"]
    with pytest.raises(ValueError, match="encoderblock_1 is missing among 2 layers"):
        models.stack_layers(tree)


def test_an_unclear_depth_is_refused():
    tree = {"Transformer": {"encoderblock": {"a": np.ones((2, 3)), "b": np.ones((4, 3))}}}
    with pytest.raises(ValueError, match=r"not clear: leading axes \[2, 4\]"):
        models.unstack_layers(tree)
