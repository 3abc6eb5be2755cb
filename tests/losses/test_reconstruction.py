"""MAE's loss against the published formula, and the nearest wrong ones."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite.losses import reconstruction
from big_vit_lite.models import patchify

GOLDENS = pathlib.Path(__file__).parents[1] / "weights" / "goldens"
UNITS = {"L21-pretraining": False, "L21-own-units": True}


@pytest.mark.parametrize("name", UNITS)
def test_the_loss_is_the_sources_and_no_near_one(name):
    """transformers' ViTMAEForPreTraining: predictions and loss as recorded."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        images, pixels, hidden, wanted = (
            file[f"native/{key}"] for key in ("images", "pixels", "hidden", "loss")
        )
    hidden = hidden.astype(bool)
    patches = patchify(jnp.asarray(images), (4, 4)).reshape(pixels.shape)

    def error(predicted=pixels, patches=patches, hidden=hidden, normalize=UNITS[name]):
        loss = reconstruction.hidden_patches(predicted, patches, hidden, normalize).mean()
        return abs(float(loss) / wanted - 1)

    assert error() < 1e-6
    assert error(hidden=np.ones_like(hidden)) > 1e-3  # over all patches
    assert error(hidden=~hidden) > 1e-3
    assert error(normalize=not UNITS[name]) > 1e-3
    if UNITS[name]:
        deviation = np.asarray(patches).std(axis=-1, keepdims=True)  # the biased one
        own = (patches - patches.mean(axis=-1, keepdims=True)) / deviation
        assert error(patches=own, normalize=False) > 1e-4
        assert error(patches=patches / 255 / deviation) > 1e-6  # eps is that of unit pixels


def test_own_units_have_mean_zero_and_unbiased_variance_one():
    patches = np.random.default_rng(0).normal(3, 5, (2, 16, 48)).astype(np.float32)
    own = np.asarray(reconstruction.own_units(patches))
    np.testing.assert_allclose(own.mean(axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(own.var(axis=-1, ddof=1), 1, rtol=1e-5)
    flat = np.asarray(reconstruction.own_units(np.full((2, 16, 48), 7.0, np.float32)))
    np.testing.assert_array_equal(flat, 0)  # a patch of one colour has no units


def test_each_image_counts_alike_and_seen_patches_have_no_gradient():
    rng = np.random.default_rng(1)
    predicted, patches = rng.normal(size=(2, 2, 16, 48)).astype(np.float32)
    hidden = np.zeros((2, 16), bool)
    hidden[0, :2] = hidden[1, 4] = True

    @jax.jit
    def both(predicted, hidden):
        losses, back = jax.vjp(
            lambda x: reconstruction.hidden_patches(x, patches, hidden), predicted
        )
        return losses, back(jnp.ones(2))[0]

    losses, gradient = both(predicted, hidden)
    squares = ((predicted - patches) ** 2).mean(axis=-1)
    np.testing.assert_allclose(losses, [squares[0, :2].mean(), squares[1, 4]], rtol=1e-6)
    wanted = np.where(hidden[:, :, None], 2 * (predicted - patches) / 48, 0)
    wanted[0] /= 2
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(both(predicted, np.zeros_like(hidden))[0], 0)
