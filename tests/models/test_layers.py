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


def allowed(n: int, m: int) -> jax.Array:
    """A mask of the second sample's last keys and of nothing in the first, alike for all heads."""
    seen = jnp.arange(m) < jnp.array([m, m - 3])[:, None]
    return jnp.broadcast_to(seen[:, None, None, :], (2, 1, n, m))


@pytest.mark.parametrize("path", ["matmul", "xla"])
@pytest.mark.parametrize(
    ("causal", "masked"),
    [(True, False), (False, True), (True, True)],
    ids=["causal", "mask", "both"],
)
def test_masks_are_the_same_on_every_path(path, causal, masked):
    """Outputs and gradients equal the reference, which equals a softmax over what is allowed."""
    q, k, v = heads()
    mask = allowed(9, 9) if masked else None

    @jax.jit
    def both(q, k, v, cotangent):
        def run(name):
            def attend(q, k, v):
                return attention.dot_product_attention(q, k, v, name, causal, mask)

            return jax.vjp(attend, q, k, v)

        (fast, fast_grad), (slow, slow_grad) = run(path), run("reference")
        return (fast, *fast_grad(cotangent)), (slow, *slow_grad(cotangent))

    fast, slow = both(q, k, v, jax.random.normal(jax.random.key(1), q.shape))
    assert max(map(relative, fast, slow)) < 2e-6
    allow = np.broadcast_to(allowed(9, 9) if masked else True, (2, 1, 9, 9))
    allow = allow & np.tril(np.ones((9, 9), bool)) if causal else allow
    for sample, query in [(0, 0), (0, 5), (1, 4), (1, 8)]:
        seen = np.flatnonzero(allow[sample, 0, query])
        scores = np.einsum("hk,mhk->hm", q[sample, query], k[sample, seen]) / 8**0.5
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        expected = np.einsum("hm,mhk->hk", weights, v[sample, seen])
        np.testing.assert_allclose(slow[0][sample, query], expected, rtol=1e-4, atol=1e-5)


def test_a_query_that_may_see_nothing_gives_no_nan():
    q, k, v = heads()
    mask = jnp.zeros((2, 1, 9, 9), bool)
    for path in ("reference", "matmul", "xla"):

        def total(q, path=path):
            return attention.dot_product_attention(q, k, v, path, mask=mask).sum()

        assert jnp.isfinite(jax.jit(jax.grad(total))(q)).all(), path


def test_attention_maps_and_dropout_keep_the_mask():
    x = jax.random.normal(jax.random.key(0), (2, 9, 24))
    layer = attention.Attention(3, True, True, "matmul", jnp.float32, 0.5, maps=True, causal=True)
    params = layer.init(jax.random.key(1), x)
    plain = attention.Attention(3, True, True, "matmul", jnp.float32, causal=True)
    y, maps = layer.apply(params, x, mask=allowed(9, 9))
    assert relative(y, plain.apply(params, x, mask=allowed(9, 9))[0]) < 1e-6
    seen = np.asarray(allowed(9, 9)) & np.tril(np.ones((9, 9), bool))
    assert not maps[np.broadcast_to(~seen, maps.shape)].any()
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    noisy, _ = layer.apply(params, x, key=jax.random.key(2))
    changed, _ = layer.apply(params, x.at[:, 5:].add(1.0), key=jax.random.key(2))
    np.testing.assert_array_equal(noisy[:, :5], changed[:, :5])


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


def test_pixels_that_fill_no_patch_can_be_left_out():
    """As a convolution without padding does: SigLIP's So400m/14 at 384 pixels."""
    images = jax.random.normal(jax.random.key(0), (2, 9, 11, 3))
    layer = PatchEmbedding(7, (4, 4), (4, 4), bias=False, dtype=jnp.float32, drop_edge=True)
    params = layer.init(jax.random.key(1), images)
    assert patch_grid((384, 384), (14, 14), (14, 14), drop_edge=True) == (27, 27)
    np.testing.assert_array_equal(
        layer.apply(params, images), layer.apply(params, images[:, :8, :8])
    )
    assert layer.apply(params, images).shape == (2, 2, 2, 7)
