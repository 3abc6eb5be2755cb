"""Analytic FLOPs against XLA's count of an unrolled forward pass, and against published figures."""

import jax
import jax.numpy as jnp
import pytest

from big_vit_lite.report import forward_flops

B16 = {"width": 768, "depth": 12, "mlp_dim": 3072, "patches": 196, "tokens": 197,
       "patch_dim": 768, "classes": 1000}  # fmt: skip


def attend(q, k, v):
    return jnp.einsum("hnm,mhd->nhd", jax.nn.softmax(jnp.einsum("nhd,mhd->hnm", q, k)), v)


def count(sizes, heads):
    """XLA's FLOPs of the forward pass of one image, written out in plain jnp."""
    s = {"pool": "cls", "pre_logits": 0, **sizes}
    d, split = s["width"], (-1, heads, s["width"] // heads)

    def zeros(*shape):
        return jnp.zeros(shape, jnp.float32)

    def mlp(x):
        return jnp.maximum(x @ zeros(d, s["mlp_dim"]), 0) @ zeros(s["mlp_dim"], d)

    def forward(patches, weights):
        x = patches @ weights["embed"]
        x = jnp.concatenate([jnp.zeros((s["tokens"] - s["patches"], d)), x])
        for w in weights["blocks"]:
            q, k, v = ((x @ w[name]).reshape(split) for name in "qkv")
            x = x + attend(q, k, v).reshape(-1, d) @ w["out"]
            x = x + jnp.maximum(x @ w["up"], 0) @ w["down"]
        if s["pool"] == "map":
            w = weights["map"]
            q, k, v = w["probe"] @ w["q"], x @ w["k"], x @ w["v"]
            x = attend(*(part.reshape(split) for part in (q, k, v))).reshape(1, d) @ w["out"]
            x = x + jnp.maximum(x @ w["up"], 0) @ w["down"]
        elif s["pool"] == "cls":
            x = x[:1]
        if s["pre_logits"]:
            x = x @ weights["pre_logits"]
        return x @ weights["head"]

    square, up, down = zeros(d, d), zeros(d, s["mlp_dim"]), zeros(s["mlp_dim"], d)
    block = {"q": square, "k": square, "v": square, "out": square, "up": up, "down": down}
    weights = {
        "embed": zeros(s["patch_dim"], d),
        "blocks": [block] * s["depth"],
        "map": {**block, "probe": zeros(1, d)},
        "pre_logits": zeros(d, s["pre_logits"]),
        "head": zeros(s["pre_logits"] or d, s["classes"]),
    }
    patches = zeros(s["patches"], s["patch_dim"])
    return jax.jit(forward).lower(patches, weights).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "map", "tokens": 196, "depth": 1, "patches": 196},
        {"pool": "none", "classes": 2000},
        {"pre_logits": 1024, "depth": 1, "mlp_dim": 512, "classes": 21843},
        {"patch_dim": 4000, "depth": 1, "tokens": 201},
    ],
)
def test_equals_what_xla_counts(changes):
    """Within 2 %: what XLA counts beside the matrix products (softmax, sums)."""
    sizes = {**B16, "depth": 2, **changes}
    assert forward_flops(**sizes) == pytest.approx(count(sizes, heads=12), rel=0.02)


def test_published_b16():
    """17.6 G multiply-adds an image with class token (Touvron 2021 table 5: 17.5)."""
    assert forward_flops(**B16) / 2 == pytest.approx(17.5e9, rel=0.01)
