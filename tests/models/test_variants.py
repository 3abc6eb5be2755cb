"""Gated MLPs, the distillation token, heads: closed forms. tests/weights compares with sources."""

import re

import jax
import numpy as np
import pytest
from models.test_vit import build, random_params, relative, run

from big_vit_lite import models
from big_vit_lite.config import InputError
from big_vit_lite.models.layers.blocks import BlockSpec, Mlp
from big_vit_lite.report import forward_flops


def silu(x):
    return x / (1 + np.exp(-x))


def test_swiglu_is_its_formula():
    """silu(x gate) * (x up), then down."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    mlp = Mlp(BlockSpec(heads=2, mlp_dim=12, activation="swiglu"))
    shapes = jax.eval_shape(mlp.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)
    up, gate, down = (params[name] for name in ("Dense_0", "Gate_0", "Dense_1"))

    def expected(up, gate):
        hidden = silu(x @ gate["kernel"] + gate["bias"]) * (x @ up["kernel"] + up["bias"])
        return hidden @ down["kernel"] + down["bias"]

    found = mlp.apply({"params": params}, x)
    assert relative(found, expected(up, gate)) < 1e-6
    assert relative(found, expected(gate, up)) > 1e-2  # the other half through silu


def test_swiglu_scanned_and_unrolled_agree_and_count_three_maps():
    scanned, unrolled = (build(activation="swiglu", scan=scan) for scan in (True, False))
    assert relative(run(scanned)[0], run(unrolled)[0]) < 1e-5
    key = jax.random.key(1)
    both = models.stack_layers(models.init_params(unrolled, key)), models.init_params(scanned, key)
    jax.tree.map(np.testing.assert_array_equal, *both)
    sizes = {"width": 8, "depth": 1, "mlp_dim": 12, "patches": 4, "tokens": 5, "patch_dim": 3,
             "classes": 0}  # fmt: skip
    more = forward_flops(**sizes, mlp_maps=3) - forward_flops(**sizes)
    assert more == 2 * 5 * 8 * 12


def test_the_distillation_token_has_its_own_rows_and_head():
    model = build(distillation=True, registers=1)
    params = random_params(model)
    logits, out = run(model)
    tokens, rows = out["tokens"][0], params["pos_embedding"][0]
    assert rows.shape == (2 + 6, 16)
    np.testing.assert_allclose(tokens[0], params["cls"][0, 0] + rows[0], rtol=1e-6)
    np.testing.assert_allclose(tokens[1], params["dist"][0, 0] + rows[1], rtol=1e-6)
    np.testing.assert_array_equal(tokens[2], params["registers"][0, 0])
    np.testing.assert_allclose(tokens[3:], out["patches"][0] + rows[2:], rtol=1e-6)
    assert out["encoded_patches"].shape == (4, 6, 16)

    def head(name, token):
        return out["encoded"][:, token] @ params[name]["kernel"] + params[name]["bias"]

    assert relative(out["head"], head("head", 0)) < 1e-6
    assert relative(out["head_dist"], head("head_dist", 1)) < 1e-6
    assert relative(logits, (head("head", 0) + head("head_dist", 1)) / 2) < 1e-6
    assert relative(logits, head("head", 0)) > 1e-2

    bare = build(distillation=True, class_position=False)
    _, out = run(bare)
    np.testing.assert_array_equal(out["tokens"][0, 1], random_params(bare)["dist"][0, 0])


def test_a_distillation_token_without_a_head_leaves_the_logits_to_the_class_token():
    model = build(distillation=True, distillation_head=False)
    params = random_params(model)
    assert "dist" in params and "head_dist" not in params
    logits, out = run(model)
    head, tokens = params["head"], out["encoded"]
    assert relative(logits, tokens[:, 0] @ head["kernel"] + head["bias"]) < 1e-6
    assert relative(logits, tokens[:, 1] @ head["kernel"] + head["bias"]) > 1e-2


def test_a_head_of_the_class_token_and_the_mean_patch():
    """As DINOv2's classifiers have it; registers count to neither."""
    model = build(pool="cls_gap", registers=2)
    params, head = random_params(model), random_params(model)["head"]
    logits, out = run(model)
    tokens = np.asarray(out["encoded"])
    pooled = np.concatenate([tokens[:, 0], tokens[:, 3:].mean(axis=1)], axis=-1)
    assert head["kernel"].shape[0] == model.output_features == 2 * model.width
    assert "cls" in params and relative(out["pooled"], pooled) < 1e-6
    assert relative(logits, pooled @ head["kernel"] + head["bias"]) < 1e-6
    swapped = np.roll(pooled, model.width, axis=-1)
    assert relative(logits, swapped @ head["kernel"] + head["bias"]) > 1e-2
    with pytest.raises(InputError, match="model.pool 'cls_gap' reads the class token, but"):
        build(pool="cls_gap", class_token=False)
    sizes = {"width": 16, "depth": 1, "mlp_dim": 8, "patches": 4, "tokens": 5, "patch_dim": 3}
    both, one = (forward_flops(**sizes, classes=7, pool=pool) for pool in ("cls_gap", "cls"))
    assert both - one == 2 * 16 * 7


def test_the_norm_after_the_mean():
    model, before = build(pool="gap", pool_norm=True), build(pool="gap")
    params = random_params(model)
    assert "encoder_norm" not in params["Transformer"]
    logits, out = run(model)
    np.testing.assert_array_equal(out["encoded"], out["unnormalized"])
    x = np.asarray(out["encoded"]).mean(axis=1)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    x = x * params["pool_norm"]["scale"] + params["pool_norm"]["bias"]
    assert relative(out["pooled"], x) < 1e-6
    assert relative(logits, x @ params["head"]["kernel"] + params["head"]["bias"]) < 1e-6
    moved = {k: x for k, x in params.items() if k != "pool_norm"}
    moved["Transformer"] = params["Transformer"] | {"encoder_norm": params["pool_norm"]}
    assert relative(run(before, params=moved)[0], logits) > 1e-2
    with pytest.raises(InputError, match="model.pool_norm is for model.pool 'gap', not 'cls'"):
        build(pool_norm=True)


@pytest.mark.parametrize("fields", [{"pool": "gap"}, {"pre_logits": True}])
def test_a_distillation_token_without_its_place_is_refused(fields):
    with pytest.raises(InputError, match=re.escape("so it wants model.pool 'cls', and no model.")):
        build(distillation=True, **fields)
