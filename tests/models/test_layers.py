"""Layers one by one: attention's paths, patches, norms, noise, pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.models.layers import attention, noise
from big_vit_lite.models.layers.norms import LayerNorm
from big_vit_lite.models.layers.patches import PatchEmbedding, patch_grid


def relative(a, b) -> float:
    return float(jnp.abs(a - b).max() / jnp.abs(b).max())


def heads(dtype=jnp.float32, n: int = 9, m: int = 9):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, n, 3, 8), (2, m, 3, 8), (2, m, 3, 8)]
    return [(3 * jax.random.normal(k, s)).astype(dtype) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("path", ["matmul", "xla"])
@pytest.mark.parametrize(("n", "m"), [(9, 9), (1, 9)])
def test_fast_attention_equals_the_reference(path, n, m):
    @jax.jit
    def both(q, k, v, cotangent):
        def run(name):
            return jax.vjp(lambda *x: attention.dot_product_attention(*x, name), q, k, v)

        (fast, fast_grad), (slow, slow_grad) = run(path), run("reference")
        return (fast, *fast_grad(cotangent)), (slow, *slow_grad(cotangent))

    q, k, v = heads(n=n, m=m)
    fast, slow = both(q, k, v, jax.random.normal(jax.random.key(1), q.shape))
    assert max(map(relative, fast, slow)) < 2e-6


def test_fast_attention_is_close_in_bfloat16():
    exact = attention.dot_product_attention(*heads(), "reference")
    for path in ("reference", "matmul", "xla"):
        y = attention.dot_product_attention(*heads(jnp.bfloat16), path)
        assert y.dtype == jnp.bfloat16
        assert relative(y.astype(jnp.float32), exact) < 0.02, path


def test_fast_gradients_are_close_in_bfloat16():
    def gradients(path, dtype):
        def total(q, k, v):
            y = attention.dot_product_attention(q, k, v, path).astype(jnp.float32)
            return (y * jnp.cos(jnp.arange(8.0))).sum()

        return jax.grad(total, argnums=(0, 1, 2))(*heads(dtype))

    fast, exact = gradients("matmul", jnp.bfloat16), gradients("reference", jnp.float32)
    assert {x.dtype for x in fast} == {jnp.dtype(jnp.bfloat16)}
    for a, b in zip(fast, exact, strict=True):
        assert relative(a.astype(jnp.float32), b) < 0.05


def test_attention_survives_huge_scores():
    q, k, v = heads()
    q = q * 1e4
    slow = attention.dot_product_attention(q, k, v, "reference")
    fast = attention.dot_product_attention(q, k, v, "matmul")
    assert jnp.isfinite(fast).all()
    assert relative(fast, slow) < 1e-5


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "path"),
    [
        ("cpu", "float32", 64, "matmul"),
        ("cpu", "bfloat16", 64, "matmul"),
        ("gpu", "bfloat16", 64, "cudnn"),
        ("gpu", "float16", 72, "cudnn"),
        ("gpu", "float32", 64, "xla"),
        ("gpu", "bfloat16", 20, "xla"),
        ("gpu", "bfloat16", 136, "xla"),
        ("tpu", "bfloat16", 64, "xla"),
    ],
)
def test_the_choice_of_path(platform, dtype, head_dim, path):
    assert attention.choose_attention("auto", platform, dtype, head_dim) == path
    assert attention.choose_attention("reference", platform, dtype, head_dim) == "reference"


@pytest.mark.parametrize(
    ("image", "patch", "stride"),
    [
        ((6, 15), (2, 5), (2, 5)),
        ((11, 10), (3, 4), (2, 3)),
    ],
)
def test_patch_embedding_is_a_convolution(image, patch, stride):
    images = jax.random.normal(jax.random.key(0), (2, *image, 5))
    layer = PatchEmbedding(7, patch, stride, bias=True, dtype=jnp.float32)
    params = layer.init(jax.random.key(1), images)["params"]
    params["bias"] = jnp.arange(7.0)
    # Window by window: each patch, flattened, times the flattened kernel.
    kernel = np.asarray(params["kernel"]).reshape(-1, 7)
    windows = np.lib.stride_tricks.sliding_window_view(images, patch, axis=(1, 2))
    windows = windows[:, :: stride[0], :: stride[1]].transpose(0, 1, 2, 4, 5, 3)
    reference = windows.reshape(*windows.shape[:3], -1) @ kernel + np.arange(7.0)
    out = layer.apply({"params": params}, images)
    assert params["kernel"].shape == (*patch, 5, 7)
    assert out.shape[1:3] == patch_grid(image, patch, stride) == reference.shape[1:3]
    assert relative(out, reference) < 1e-6


def test_patches_that_do_not_tile_or_fit():
    with pytest.raises(InputError, match="width 30 is not a multiple of the patch width 8: use 32"):
        patch_grid((32, 30), (8, 8), (8, 8))
    with pytest.raises(InputError, match="height 4 is smaller than the patch height 8"):
        patch_grid((4, 32), (8, 8), (4, 4))
    assert patch_grid((30, 32), (8, 8), (4, 4)) == (6, 7)


def test_layer_norm_keeps_digits_under_a_large_mean():
    x = np.random.default_rng(0).standard_normal((3, 64)) + 1e3
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    layer = LayerNorm(1e-6, bias=False, dtype=jnp.float32)
    out, variables = layer.init_with_output(jax.random.key(0), jnp.asarray(x, jnp.float32))
    assert set(variables["params"]) == {"scale"}
    assert relative(out, exact) < 1e-4


def test_layer_norm_has_float32_statistics_in_bfloat16():
    x = 8 * jax.random.normal(jax.random.key(0), (4, 512)).astype(jnp.bfloat16) + 4
    layer = LayerNorm(1e-6, bias=True, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)
    out = layer.apply(params, x)
    assert out.dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64)
    exact = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    # One rounding, of the output, and no more.
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2.0**-8, atol=1e-5)


def test_dropout_keeps_the_mean_and_the_share():
    x = jnp.ones((100, 100))
    y = noise.dropout(x, 0.3, jax.random.key(0))
    assert set(np.unique(y).tolist()) == {0.0, float(np.float32(1) / np.float32(0.7))}
    assert abs(float((y == 0).mean()) - 0.3) < 0.02
    assert noise.dropout(x, 0.3, None) is x
    assert noise.dropout(x, 0.0, jax.random.key(0)) is x


def test_stochastic_depth_drops_whole_samples():
    x = jnp.ones((4000, 3, 2))
    y = np.asarray(noise.stochastic_depth(x, jnp.float32(0.25), jax.random.key(0)))
    samples = y.reshape(4000, -1)
    assert (samples == samples[:, :1]).all()
    assert abs((samples[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_allclose(samples[samples[:, 0] != 0], 1 / 0.75, rtol=1e-6)
    assert noise.stochastic_depth(x, None, jax.random.key(0)) is x


def test_patch_dropout_keeps_a_uniform_subset_in_order():
    tokens = jnp.broadcast_to(jnp.arange(10.0)[None, :, None], (3000, 10, 2))
    kept, indices = noise.patch_dropout(tokens, 0.7, jax.random.key(0))
    assert kept.shape == (3000, 3, 2)
    np.testing.assert_array_equal(kept[:, :, 0], indices)
    assert (np.diff(indices, axis=1) > 0).all()
    share = np.bincount(np.asarray(indices).ravel(), minlength=10) / 3000
    np.testing.assert_allclose(share, 0.3, atol=0.04)
    assert noise.patch_dropout(tokens, 0.99, jax.random.key(0))[0].shape[1] == 1
