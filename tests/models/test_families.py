"""What SigLIP, CLIP and DINOv2 with registers have and ViT has not, against transformers' towers.

Recorded by tools/record_goldens.py with one layer and every leaf random.
"""

import pathlib

import jax
import numpy as np
import pytest

from big_vit_lite import config, models

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "families.npz"
HEADS, SIDE = 2, 12
SHAPE = {"variant": "mu/4", "width": 16, "depth": 1, "heads": HEADS}

NAMES = {
    "siglip": {
        "layer": "encoder.layers.0",
        "norms": ("layer_norm1", "layer_norm2"),
        "projections": tuple(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
        "last": "post_layernorm",
        "patches": "embeddings.patch_embedding",
    },
    "dinov2": {
        "layer": "encoder.layer.0",
        "norms": ("norm1", "norm2"),
        "projections": (
            *(f"attention.attention.{x}" for x in ("query", "key", "value")),
            "attention.output.dense",
        ),
        "last": "layernorm",
        "patches": "embeddings.patch_embeddings.projection",
    },
}
NAMES["clip"] = NAMES["siglip"]

FIELDS = {
    "siglip": {"mlp_dim": 24, "pool": "map", "activation": "tanh", "norm_eps": 1e-6},
    "clip": {
        "mlp_dim": 24,
        "activation": "quick",
        "norm_eps": 1e-5,
        "pre_norm": True,
        "patch_bias": False,
    },
    "dinov2": {
        "mlp_dim": 32,
        "activation": "erf",
        "norm_eps": 1e-6,
        "layer_scale": 1.0,
        "registers": 3,
        "position_resample": "cubic",
    },
}


class Weights:
    """One family's file, read into parts of our tree; knows what was never read."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.unread = set(arrays)

    def __call__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        return self.arrays[name]

    def norm(self, name: str) -> dict:
        return {"scale": self(f"{name}.weight"), "bias": self(f"{name}.bias")}

    def dense(self, name: str) -> dict:
        return {"kernel": self(f"{name}.weight").T, "bias": self(f"{name}.bias")}

    def mlp(self, name: str) -> dict:
        return {"Dense_0": self.dense(f"{name}.fc1"), "Dense_1": self.dense(f"{name}.fc2")}


def on_heads(dense: dict) -> dict:
    width = len(dense["kernel"])
    return {
        "kernel": dense["kernel"].reshape(width, HEADS, -1),
        "bias": dense["bias"].reshape(HEADS, -1),
    }


def attention(query: dict, key: dict, value: dict, out: dict) -> dict:
    merged = {"kernel": out["kernel"].reshape(HEADS, -1, out["kernel"].shape[1])}
    heads = {"query": on_heads(query), "key": on_heads(key), "value": on_heads(value)}
    return heads | {"out": out | merged}


def our_tree(family: str, weights: Weights) -> dict:
    names = NAMES[family]
    layer = names["layer"]
    block = {
        "LayerNorm_0": weights.norm(f"{layer}.{names['norms'][0]}"),
        "LayerNorm_1": weights.norm(f"{layer}.{names['norms'][1]}"),
        "MlpBlock_0": weights.mlp(f"{layer}.mlp"),
        "MultiHeadDotProductAttention_0": attention(
            *(weights.dense(f"{layer}.{name}") for name in names["projections"])
        ),
    }
    tree = {
        "embedding": {"kernel": weights(f"{names['patches']}.weight").transpose(2, 3, 1, 0)},
        "Transformer": {"encoderblock_0": block, "encoder_norm": weights.norm(names["last"])},
    }
    if family != "clip":
        tree["embedding"]["bias"] = weights(f"{names['patches']}.bias")
    if family == "dinov2":
        for i in (0, 1):
            block[f"LayerScale_{i}"] = {"scale": weights(f"{layer}.layer_scale{i + 1}.lambda1")}
        tree["cls"] = weights("embeddings.cls_token")
        tree["registers"] = weights("embeddings.register_tokens")
        tree["pos_embedding"] = weights("embeddings.position_embeddings")
        weights("embeddings.mask_token")  # of pre-training only
    else:
        tree["pos_embedding"] = weights("embeddings.position_embedding.weight")[None]
    if family == "clip":
        tree["cls"] = weights("embeddings.class_embedding")[None, None]
        tree["pre_norm"] = weights.norm("pre_layrnorm")
    if family == "siglip":
        kernels = np.split(weights("head.attention.in_proj_weight"), 3)
        biases = np.split(weights("head.attention.in_proj_bias"), 3)
        qkv = [{"kernel": k.T, "bias": b} for k, b in zip(kernels, biases, strict=True)]
        tree["MAPHead_0"] = {
            "probe": weights("head.probe"),
            "LayerNorm_0": weights.norm("head.layernorm"),
            "MlpBlock_0": weights.mlp("head.mlp"),
            "MultiHeadDotProductAttention_0": attention(
                *qkv, weights.dense("head.attention.out_proj")
            ),
        }
    return tree


def error(family: str, **changes) -> float:
    with np.load(GOLDENS) as file:
        golden = {name.removeprefix(f"{family}/"): file[name] for name in file}
    weights = Weights(
        {k.removeprefix("file/"): v for k, v in golden.items() if k.startswith("file/")}
    )
    tree = our_tree(family, weights)
    assert not weights.unread
    section = config.Model(**(SHAPE | FIELDS[family] | changes))
    model = models.build_model(section, (SIDE, SIDE, 3), 0, "cpu")
    _, out = jax.jit(model.apply)({"params": tree}, golden["images"])
    ours = out["encoded"] if family == "dinov2" else out["pooled"]
    reference = golden["output"]
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("family", ["siglip", "clip", "dinov2"])
def test_equal_to_the_recorded_tower(family):
    assert error(family) < 1e-5


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("siglip", {"activation": "erf"}),
        ("clip", {"activation": "erf"}),
        ("clip", {"pre_norm": False}),
        ("dinov2", {"layer_scale": None}),
        ("dinov2", {"position_resample": "cubic_torch"}),
    ],
    ids=str,
)
def test_the_nearest_wrong_tower_fails(family, change):
    assert error(family, **change) > 1e-4
