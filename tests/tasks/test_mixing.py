"""Mixup on the device: the formula, its distribution, and the same on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite import config, parallel
from big_vit_lite.tasks.mixing import mixup


def batch(n=8):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(n, 4, 4, 3)), jnp.float32)
    return images, jax.nn.one_hot(jnp.arange(n), n)


def test_images_and_targets_share_one_weight_with_the_neighbour():
    images, targets = batch()
    mixed, soft = mixup(images, targets, 0.5, jax.random.key(3))
    share = float(soft[0, 0])
    assert 0.5 <= share < 1.0
    np.testing.assert_allclose(
        mixed[3], share * images[3] + (1 - share) * images[2], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(soft[3, 2], 1 - share, rtol=1e-5)


def test_zero_leaves_the_batch_alone():
    images, targets = batch()
    mixed, soft = mixup(images, targets, 0.0, jax.random.key(0))
    assert mixed is images and soft is targets


def test_weights_follow_the_folded_beta_distribution():
    images, targets = batch(2)
    keys = jax.random.split(jax.random.key(0), 4000)
    shares = jax.vmap(lambda k: mixup(images, targets, 0.4, k)[1][0, 0])(keys)
    # E max(l, 1-l) for Beta(a, a) by numerical integration on the exact density.
    grid = (np.arange(200_000) + 0.5) / 200_000
    density = (grid * (1 - grid)) ** (0.4 - 1)
    wanted = np.sum(np.maximum(grid, 1 - grid) * density) / density.sum()
    np.testing.assert_allclose(shares.mean(), wanted, atol=0.01)


def test_partners_do_not_depend_on_the_mesh():
    images, targets = batch(16)
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=4))
    sharded = jax.device_put((images, targets), parallel.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        got = jax.jit(lambda x, y: mixup(x, y, 0.3, jax.random.key(1)))(*sharded)
    for a, b in zip(got, mixup(images, targets, 0.3, jax.random.key(1)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
