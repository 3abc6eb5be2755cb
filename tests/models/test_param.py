"""A parameter that is there is looked at, and its initialiser is not run for it."""

import flax.errors
import flax.linen as nn
import jax
import numpy as np
import pytest

from big_vit_lite.models.layers.param import param

RUNS = []


def counted(key, shape):
    RUNS.append(shape)
    return jax.random.normal(key, shape)


class Scaled(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x):
        return x * param(self, "scale", counted, (self.width,))


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Scaled(name="inner")(x)


def test_the_initialiser_runs_where_there_is_no_value_only():
    RUNS.clear()
    variables = Scaled().init(jax.random.key(0), np.ones(3, np.float32))
    assert RUNS == [(3,)] and variables["params"]["scale"].shape == (3,)
    scale = np.array([1, 2, 3], np.float32)
    out = Scaled().apply({"params": {"scale": scale}}, np.ones(3, np.float32))
    np.testing.assert_array_equal(out, scale)
    assert RUNS == [(3,)]


def test_what_does_not_fit_is_named():
    with pytest.raises(flax.errors.ScopeParamShapeError) as caught:
        Two().apply({"params": {"inner": {"scale": np.ones(4)}}}, np.ones(3))
    said = str(caught.value)
    assert '"scale" in "/inner"' in said and "generate shape (3,)" in said and "shape (4,)" in said
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match='"scale"'):
        Two().apply({"params": {"inner": {"bias": np.ones(3)}}}, np.ones(3))
