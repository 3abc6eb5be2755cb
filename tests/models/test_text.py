"""The text tower by itself: what each pool reads, what masks hide, lengths, noise, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, models
from big_vit_lite.config import InputError

LENGTH, VOCABULARY, WIDTH = 7, 30, 16
SMALL = {"variant": "mu", "depth": 1, "width": WIDTH, "heads": 2, "mlp_dim": 24,
         "vocabulary": VOCABULARY}  # fmt: skip


def build(features=5, platform="cpu", **fields) -> models.TextTransformer:
    return models.build_text(config.Text(**(SMALL | fields)), LENGTH, features, platform)


@functools.cache
def random_params(model):
    shapes = models.abstract_params(model.clone(scan=False))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        noise = 0.3 * rng.standard_normal(leaf.shape).astype(np.float32)
        return 1 + noise if path[-1].key == "scale" else noise

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return models.stack_layers(params) if model.scan else params


def texts(batch=4, length=LENGTH) -> np.ndarray:
    return np.random.default_rng(3).integers(1, VOCABULARY - 2, (batch, length), np.int32)


@functools.cache
def compiled(model, options):
    return jax.jit(lambda p, t, r: model.apply({"params": p}, t, rngs=r, **dict(options)))


def run(model, tokens, params=None, rngs=None, **options):
    params = random_params(model) if params is None else params
    return compiled(model, tuple(options.items()))(params, tokens, rngs or {})


def test_a_causal_tower_sees_nothing_that_comes_later():
    tokens = texts()
    changed = tokens.copy()
    changed[:, 4:] = (changed[:, 4:] + 5) % VOCABULARY
    for causal in (True, False):
        model = build(causal=causal)
        before, after = (run(model, x)[1]["encoded"] for x in (tokens, changed))
        assert np.array_equal(before[:, :4], after[:, :4]) == causal
        assert not np.array_equal(before[:, 4:], after[:, 4:])


def test_pools_read_the_tokens_they_name():
    tokens = texts()
    tokens[0, 3] = tokens[1, 0] = tokens[2, 6] = tokens[3, 2] = VOCABULARY - 1
    tokens[3, 5] = VOCABULARY - 1
    at = np.array([3, 0, 6, 2])
    rows = np.arange(4)
    for fields, expected in [
        ({"pool": "end"}, lambda x: x[rows, at]),
        ({"pool": "end", "end_id": VOCABULARY - 1}, lambda x: x[rows, at]),
        ({"pool": "end", "end_id": int(tokens[0, 1])}, lambda x: x[:1, 1]),
        ({"pool": "last"}, lambda x: x[:, -1]),
        ({"pool": "gap"}, lambda x: x.mean(axis=1)),
    ]:
        features, out = run(build(features=0, **fields), tokens)
        wanted = expected(np.asarray(out["encoded"]))
        np.testing.assert_allclose(features[: len(wanted)], wanted, rtol=1e-5, atol=1e-6)
    features, out = run(build(pool="cls"), tokens)
    params = random_params(build(pool="cls"))
    assert out["encoded"].shape == (4, LENGTH + 1, WIDTH)
    assert params["pos_embedding"].shape == (1, LENGTH + 1, WIDTH)
    np.testing.assert_allclose(
        out["tokens"][:, -1], (params["cls"] + params["pos_embedding"][:, -1:])[:, 0].repeat(4, 0),
        rtol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(out["pooled"], out["encoded"][:, -1])
    assert features.shape == (4, 5) and features.dtype == jnp.float32
    features, _ = run(build(pool="map"), tokens)
    assert features.shape == (4, 5)


@pytest.mark.parametrize("pool", ["cls", "gap", "map", "end"])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_that_is_not_seen_changes_nothing(pool, causal):
    """A text with padding has the features of the text without, but for the class token's place."""
    model = build(pool=pool, causal=causal, pad_id=0)
    params = dict(random_params(model))
    if pool == "cls":
        row = params["pos_embedding"][:, -1:]
        params["pos_embedding"] = np.concatenate(
            [params["pos_embedding"][:, :4], row, row, row, row], 1
        )
    tokens = texts()
    tokens[:, 3] = VOCABULARY - 1
    tokens[:, 4:] = 0
    padded, _ = run(model, tokens, params)
    alone, _ = run(model, tokens[:, :4], params)
    np.testing.assert_allclose(padded, alone, rtol=1e-4, atol=1e-5)
    if pool != "end" or not causal:
        seen, _ = run(build(pool=pool, causal=causal), tokens, params)
        assert float(np.abs(np.asarray(seen) - alone).max()) > 1e-3


def test_a_shifted_mask_moves_to_the_right():
    tokens = texts(1)
    tokens[:, 4:] = 0
    model = build(pool="cls", pad_id=0, causal=False).clone(pad_shift=1)
    _, out = run(model, tokens, capture=("attention",))
    seen = (np.asarray(out["attention00"])[0] > 0).all(axis=(0, 1))
    np.testing.assert_array_equal(seen, [1, 1, 1, 1, 1, 0, 0, 0])


def test_shorter_texts_take_the_first_positions_and_longer_ones_are_refused():
    model = build(pool="last")
    tokens = texts()
    short, out = run(model, tokens[:, :5])
    _, whole = run(model, tokens)
    np.testing.assert_allclose(out["encoded"], whole["encoded"][:, :5], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="texts have 8 tokens, the text tower's position table 7"):
        run(model, texts(length=8))
    assert build(length=9).length == 9


def test_an_id_beyond_the_vocabulary_is_not_taken_for_another():
    tokens = texts()
    tokens[1, 2] = VOCABULARY
    features, _ = run(build(), tokens)
    assert np.isnan(features[1]).any() and np.isfinite(np.delete(features, 1, axis=0)).all()


@pytest.mark.slow
def test_scan_remat_and_noise_change_no_number():
    fields = {"depth": 2, "dropout": 0.2, "stochastic_depth": 0.5, "pool": "cls", "pad_id": 0}
    tokens = texts()
    tokens[:, 5:] = 0

    def gradient(scan, remat):
        model = build(scan=scan, remat=remat, **fields)

        def loss(params):
            rngs = {"dropout": jax.random.key(3)}
            return jnp.sin(model.apply({"params": params}, tokens, train=True, rngs=rngs)[0]).sum()

        return models.stack_layers(jax.device_get(jax.jit(jax.grad(loss))(random_params(model))))

    plain = gradient(False, "none")
    again = gradient(True, "dots")
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_noise_is_drawn_in_training_only():
    noisy = build(dropout=0.3)
    one, two = (run(noisy, texts(), train=True, rngs={"dropout": jax.random.key(i)})[0]
                for i in range(2))  # fmt: skip
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(run(noisy, texts())[0], run(build(), texts())[0])


def test_half_precision_is_close_and_features_are_float32():
    exact, _ = run(build(), texts())
    features, out = run(build(dtype="bfloat16"), texts())
    assert features.dtype == jnp.float32 and out["tokens"].dtype == jnp.bfloat16
    difference = float(np.abs(np.asarray(features) - exact).max() / np.abs(exact).max())
    assert 2.0**-12 < difference < 0.05


def test_attention_paths_agree():
    reference, _ = run(build(attention="reference", pad_id=0), texts())
    for path in ("auto", "xla"):
        features, _ = run(build(attention=path, pad_id=0), texts())
        np.testing.assert_allclose(features, reference, rtol=1e-4, atol=1e-5)


def test_captures():
    _, out = run(build(depth=2), texts(), capture=("attention", "blocks"))
    assert out["attention01"].shape == (4, 2, LENGTH, LENGTH)
    assert not np.triu(np.asarray(out["attention01"]), 1).any()
    np.testing.assert_array_equal(out["block01"], out["unnormalized"])
    with pytest.raises(ValueError, match="'maps' is not one of blocks, attention"):
        run(build(), texts(), capture=("maps",))


def test_auto_follows_the_platform():
    for platform, scan, dtype, attention in [
        ("cpu", False, "float32", "matmul"),
        ("gpu", True, "bfloat16", "cudnn"),
        ("tpu", True, "bfloat16", "xla"),
    ]:
        model = build(platform=platform)
        assert (model.scan, model.block.dtype, model.block.attention) == (scan, dtype, attention)
