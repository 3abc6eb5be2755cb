"""What a GPU would run, as far as tracing shows: no shipped config asks cuDNN for what it lacks."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from big_vit_lite import config, models, tasks
from big_vit_lite.models.layers import attention

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {
    "clip_b16": ("", 224, 3, 77),
    "clip_b32": ("", 224, 3, 77),
    "clip_emoji": ("", 48, 3, 20),
    "clip_quickstart": ("", 16, 1, 28),
    "coca_b32": ("", 224, 3, 76),
    "lit_b16": ("", 224, 3, 16),
    "siglip_b16": ("", 224, 3, 64),
    "clip_b32 RN50": ("variant=RN50", 224, 3, 77),
    "quickstart": ("", 8, 1, None),
    "vit_b16": ("", 224, 3, None),
}
"""Argument, side and channels of images, tokens of texts."""


@pytest.fixture
def gpu(monkeypatch):
    """Versions and capabilities are all that JAX asks a GPU for while it traces."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 90800)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)


def kernels(function, *arguments) -> list[str]:
    """cuDNN's calls in a traced function, in loops and branches too."""
    text = str(jax.make_jaxpr(function)(*arguments))
    return re.findall(r"\bdot_product_attention_(?:fwd|bwd)(?=_wrapper\[)", text)


@pytest.mark.parametrize("name", SIZES)
def test_every_config_has_a_gradient(name, gpu):
    argument, side, channels, tokens = SIZES[name]
    file = f"{CONFIGS / name.split()[0]}.py:{argument}"
    run = config.load(file)
    spec = {"image": jax.ShapeDtypeStruct((8, side, side, channels), np.uint8)}
    rest = {"label": (8,)} if tokens is None else {"text": (8, tokens)}
    spec |= {key: jax.ShapeDtypeStruct(shape, np.int32) for key, shape in rest.items()}
    task = tasks.build(run, tasks.build_model(run, spec, 1000, "gpu"))
    key = jax.random.key(0)

    def loss(params, batch):
        return task.loss(params, task.prepare(batch, key), key)[0]

    params = models.abstract_params(task.model)
    fused = kernels(jax.grad(loss), params, spec)
    if name == "clip_b32":  # 50 tokens, and 77 that are causal
        assert fused.count("dot_product_attention_bwd") == 2
    if name == "vit_b16":  # 197
        assert not fused


def test_a_kernel_runs_where_it_has_a_gradient(gpu):
    def loss(q, k, v, causal, mask):
        y = attention.dot_product_attention(q, k, v, "cudnn", causal, mask)
        return y.astype(jnp.float32).sum()

    def fused(queries, keys, causal=False, masked=False):
        q, k = (jnp.zeros((2, n, 4, 8), jnp.bfloat16) for n in (queries, keys))
        mask = jnp.ones((2, 1, 1, keys), bool) if masked else None
        return kernels(lambda q, k, v: jax.grad(loss)(q, k, v, causal, mask), q, k, k)

    both = ["dot_product_attention_fwd", "dot_product_attention_bwd"]
    assert fused(6, 6) == fused(7, 7, causal=True) == fused(6, 10) == both
    assert fused(7, 7) == fused(6, 7) == fused(1, 6) == fused(6, 6, masked=True) == []


@pytest.mark.parametrize("n", [6, 7])
def test_a_token_more_changes_nothing_that_is_causal(n):
    rng = np.random.default_rng(0)
    q, k, v, g = (rng.standard_normal((2, n, 3, 8)).astype(np.float32) for _ in range(4))

    def outputs(attend):
        y, back = jax.vjp(attend, q, k, v)
        return y, *back(g)

    even = outputs(lambda q, k, v: attention.even_attention(q, k, v, True, "xla"))
    exact = outputs(
        lambda q, k, v: attention.dot_product_attention(q, k, v, "reference", causal=True)
    )
    for ours, theirs in zip(even, exact, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * float(np.abs(theirs).max()) * 5)
