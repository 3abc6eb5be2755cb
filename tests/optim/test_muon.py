"""Muon for matrices in blocks, Adam for the rest; the same whether layers are scanned or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import make_run, make_task

from big_vit_lite import models, optim

OPTIONS = {"name": "muon", "momentum": 0.9, "lr": 0.1, "schedule": "constant"}


def make(scan, **options):
    run = make_run(model={"scan": scan, "depth": 2}, optim={**OPTIONS, **options})
    params = jax.jit(make_task(run).init)(jax.random.key(0))
    return params, optim.build(run, params, steps=10, examples=80)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


def newton_schulz(g):
    """Five steps towards the nearest orthogonal matrix, with Jordan's coefficients (2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / np.linalg.norm(g)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if flip else x


def test_first_update_is_the_orthogonal_gradient_of_adams_size():
    params, optimizer = make(scan=False)
    grads = random_like(params, 1)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    block = "encoderblock_1"
    for names, rows in (
        (("MultiHeadDotProductAttention_0", "query"), 32),
        (("MultiHeadDotProductAttention_0", "out"), 32),
        (("MlpBlock_0", "Dense_0"), 32),
        (("MlpBlock_0", "Dense_1"), 64),
    ):
        g, u = grads["Transformer"][block], updates["Transformer"][block]
        for name in names:
            g, u = g[name], u[name]
        g = np.asarray(g["kernel"], np.float64).reshape(rows, -1)
        u = np.asarray(u["kernel"]).reshape(rows, -1)
        wanted = -0.1 * 0.2 * np.sqrt(max(g.shape)) * newton_schulz(g)
        assert np.abs(u - wanted).max() < 1e-4 * np.abs(wanted).max()
        # Singular values are near one another, which no multiple of the gradient's are.
        values = np.linalg.svd(u, compute_uv=False)
        assert values.max() / values.min() < 3 < np.divide(*np.linalg.svd(g)[1][[0, -1]]) * 1.5
        assert 0.5 < np.sqrt(np.mean(u**2)) / (0.1 * 0.2) < 1.5


def test_everything_outside_the_blocks_gets_adam():
    params, optimizer = make(scan=False)
    grads = random_like(params, 2)
    adam = optax.adam(0.1)
    wanted, _ = adam.update(grads, adam.init(params), params)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    for name in ("embedding", "head", "pos_embedding"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates[name], wanted[name]
        )
    norm = updates["Transformer"]["encoderblock_0"]["LayerNorm_0"]["scale"]
    np.testing.assert_allclose(
        norm, wanted["Transformer"]["encoderblock_0"]["LayerNorm_0"]["scale"], rtol=1e-5
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_scanned_layers_are_orthogonalised_one_by_one(weight_decay):
    params, optimizer = make(scan=False, weight_decay=weight_decay)
    stacked, scanned = make(scan=True, weight_decay=weight_decay)
    state, other = optimizer.init(params), scanned.init(stacked)
    for seed in (3, 4):
        grads = random_like(params, seed)
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        stacked_updates, other = jax.jit(scanned.update)(models.stack_layers(grads), other, stacked)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        models.unstack_layers(stacked_updates),
        updates,
    )
    # The optimiser's own state changes form with the parameters, for checkpoints.
    shapes = jax.tree.map(jnp.shape, models.unstack_layers(other))
    assert jax.tree.leaves(shapes) == jax.tree.leaves(jax.tree.map(jnp.shape, state))
