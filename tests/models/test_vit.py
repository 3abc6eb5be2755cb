"""The whole model: forms that must agree, noise of training, tokens, precision, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, models
from big_vit_lite.config import InputError

SHAPE, CLASSES = (8, 12, 3), 5
SMALL = {"variant": "mu/4", "depth": 2, "width": 16, "heads": 2, "mlp_dim": 24, "head_init": 0.3}
NOISY = {"dropout": 0.2, "attention_dropout": 0.2, "stochastic_depth": 0.5, "patch_dropout": 0.4}


def build(shape=SHAPE, platform="cpu", classes=CLASSES, **fields):
    return models.build_model(config.Model(**(SMALL | fields)), shape, classes, platform)


@functools.cache
def images(shape=SHAPE, batch=4):
    return np.random.default_rng(7).standard_normal((batch, *shape)).astype(np.float32)


@functools.cache
def random_params(model):
    """Every leaf random at a realistic scale, so that no zero or one hides anything.

    Drawn by NumPy: compiling a threefry for every leaf takes longer than all the rest.
    """
    scanned = model.clone(scan=True)
    shapes = models.abstract_params(scanned)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        return 1 + 0.3 * noise if name == "scale" else 0.3 * noise

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return params if model.scan else models.unstack_layers(params)


def run(model, x=None, params=None, **options):
    """(logits, intermediates), compiled."""
    params = random_params(model) if params is None else params
    x = images(model.image_shape) if x is None else x
    return jax.jit(lambda p, x: model.apply({"params": p}, x, **options))(params, x)


def relative(a, b) -> float:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return float(np.abs(a - b).max() / np.abs(b).max())


def worst(ours, reference) -> float:
    return max(jax.tree.leaves(jax.tree.map(relative, ours, reference)))


@functools.cache
def outputs_and_gradients(model, train: bool):
    """Logits, block outputs, and the gradient of every parameter, stacked."""

    @jax.jit
    def compiled(params):
        def loss(params):
            logits, out = model.apply(
                {"params": params},
                images(),
                train=train,
                rngs={"dropout": jax.random.key(3)},
                capture=("blocks",),
            )
            return jnp.sum(jnp.sin(logits)), (
                logits,
                {k: v for k, v in out.items() if "block" in k},
            )

        (_, seen), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return seen, gradient

    seen, gradient = compiled(random_params(model))
    gradient = models.stack_layers(gradient)
    # The gradient of keys' biases is zero but for rounding: on the scale of the queries'.
    heads = [gradient["Transformer"]["encoderblock"]]
    heads += [gradient["MAPHead_0"]] if "MAPHead_0" in gradient else []
    for node in heads:
        attention = node["MultiHeadDotProductAttention_0"]
        both = [attention[name].pop("bias") for name in ("query", "key")]
        attention["bias"] = jnp.stack(both)
    return seen, gradient


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_scanned_and_unrolled_agree_in_outputs_noise_and_gradients(train):
    fields = NOISY | {"registers": 2, "layer_scale": 0.5, "pre_norm": True, "pool": "map"}
    unrolled, scanned = (build(scan=scan, remat="none", **fields) for scan in (False, True))
    assert worst(*(outputs_and_gradients(m, train) for m in (scanned, unrolled))) < 2e-5


@pytest.mark.parametrize(("remat", "scan"), [("dots", True), ("full", True), ("dots", False)])
def test_remat_changes_no_gradient(remat, scan):
    fields = {"stochastic_depth": 0.5, "dropout": 0.2}
    plain = outputs_and_gradients(build(scan=False, remat="none", **fields), True)
    again = outputs_and_gradients(build(scan=scan, remat=remat, **fields), True)
    assert worst(again, plain) < 2e-5


def test_remat_computes_forward_again():
    """The saved residuals shrink: none saves most, dots less, full the least."""

    def residuals(remat):
        model = build(scan=True, remat=remat)
        params = random_params(model)
        _, pullback = jax.eval_shape(
            lambda p: jax.vjp(lambda p: model.apply({"params": p}, images())[0], p), params
        )
        return sum(x.size for x in jax.tree.leaves(pullback))

    assert residuals("none") > 1.2 * residuals("dots") > 1.2 * residuals("full")


def test_initial_values_are_bitwise_the_same_in_every_form():
    fields = {"layer_scale": 0.1, "registers": 1}
    unrolled, scanned = build(scan=False, **fields), build(scan=True, **fields)
    key = jax.random.key(5)
    reference = models.init_params(scanned, key)
    inside = jax.jit(lambda k: jax.tree.map(lambda x: x * 1, models.init_params(unrolled, k)))
    params = models.stack_layers(inside(key))
    jax.tree.map(np.testing.assert_array_equal, params, reference)
    stacked = reference["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]["kernel"]
    assert not np.array_equal(stacked[0], stacked[1])
    deeper = models.init_params(build(scan=True, depth=3, **fields), key)
    deeper["Transformer"]["encoderblock"] = jax.tree.map(
        lambda x: x[:2], deeper["Transformer"]["encoderblock"]
    )
    jax.tree.map(np.testing.assert_array_equal, deeper, reference)


def test_initial_distributions():
    model = build(
        width=128, heads=4, mlp_dim=256, scan=True, position_std=0.5, head_bias=-3.0, head_init=0.0
    )
    params = models.init_params(model, jax.random.key(0))
    block = params["Transformer"]["encoderblock"]
    attention = block["MultiHeadDotProductAttention_0"]
    # Xavier uniform: bound sqrt(6 / (in + out)) over the flattened heads.
    for kernel, fans in [
        (attention["query"]["kernel"], 128 + 128),
        (attention["out"]["kernel"], 128 + 128),
        (block["MlpBlock_0"]["Dense_0"]["kernel"], 128 + 256),
        (block["MlpBlock_0"]["Dense_1"]["kernel"], 256 + 128),
    ]:
        bound = np.sqrt(6 / fans)
        assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
        assert abs(float(kernel.std()) / (bound / np.sqrt(3)) - 1) < 0.02
    assert 0.8e-6 < float(block["MlpBlock_0"]["Dense_0"]["bias"].std()) < 1.2e-6
    for zero in (params["cls"], params["head"]["kernel"], attention["value"]["bias"]):
        assert not zero.any()
    assert (params["head"]["bias"] == -3).all()
    assert abs(float(params["pos_embedding"].std()) / 0.5 - 1) < 0.1
    embedding = params["embedding"]["kernel"]
    assert embedding.shape == (4, 4, 3, 128)
    assert abs(float(embedding.std()) * np.sqrt(48) - 1) < 0.05


def test_without_positions_patches_may_be_permuted():
    """Patch tokens are permuted with their patches; class token and logits stay as they are."""
    order = np.random.default_rng(0).permutation(6)
    patches = images().reshape(4, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 6, 4, 4, 3)
    mixed = patches[:, order].reshape(4, 2, 3, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    mixed = mixed.reshape(images().shape)
    for positions in ("none", "sincos2d"):
        model = build(positions=positions)
        (logits, out), (mixed_logits, mixed_out) = run(model), run(model, mixed)
        permuted = relative(mixed_out["encoded_patches"], out["encoded_patches"][:, order])
        differs = relative(mixed_logits, logits)
        if positions == "none":
            assert max(permuted, differs) < 1e-5
        else:
            assert min(permuted, differs) > 1e-3


def test_noise_is_drawn_by_the_key_in_training_only():
    noisy, quiet = build(**NOISY), build()
    params = random_params(noisy)

    @jax.jit
    def train(key):
        return noisy.apply({"params": params}, images(), train=True, rngs={"dropout": key})[0]

    one, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert relative(other, one) > 1e-2
    np.testing.assert_array_equal(run(noisy)[0], run(quiet)[0])
    # Without a rate no key is asked for.
    np.testing.assert_array_equal(run(quiet, train=True)[0], run(quiet)[0])


def test_stochastic_depth_rises_linearly_and_drops_by_sample():
    """Both branches of layer l stay with 1 - rate l / (L - 1): counted on untouched samples."""
    model = build((4, 4, 3), stochastic_depth=0.8, depth=3)
    key = {"dropout": jax.random.key(0)}
    x = images((4, 4, 3), batch=600)
    _, out = run(model, x, train=True, rngs=key, capture=("blocks",))
    layers = [out["tokens"], *(out[f"block{i:02d}"] for i in range(3))]
    untouched = np.array(
        [
            (np.asarray(a) == np.asarray(b)).all(axis=(1, 2))
            for a, b in zip(layers, layers[1:], strict=False)
        ]
    )
    np.testing.assert_allclose(untouched.mean(axis=1), [0, 0.4**2, 0.8**2], atol=0.05)
    # Layers draw for themselves.
    assert abs((untouched[1] & untouched[2]).mean() - 0.4**2 * 0.8**2) < 0.03


def test_patch_dropout_keeps_patches_with_their_positions():
    model = build(patch_dropout=0.5, registers=2, depth=1)
    _, out = run(model, train=True, rngs={"dropout": jax.random.key(0)})
    _, whole = run(model)
    assert out["kept"].shape == (4, 3)
    assert "kept" not in whole
    np.testing.assert_array_equal(out["tokens"][:, :3], whole["tokens"][:, :3])
    for sample in range(4):
        np.testing.assert_array_equal(
            out["tokens"][sample, 3:], whole["tokens"][sample, 3:][out["kept"][sample]]
        )
    assert out["encoded_patches"].shape == (4, 3, 16)


def test_class_token_registers_and_positions_are_where_they_belong():
    model = build(registers=2)
    params = random_params(model)
    _, out = run(model)
    rows = params["pos_embedding"]
    tokens = out["tokens"][0]
    np.testing.assert_allclose(tokens[:1], (params["cls"] + rows[:, :1])[0], rtol=1e-6)
    np.testing.assert_array_equal(tokens[1:3], params["registers"][0])
    np.testing.assert_allclose(tokens[3:], out["patches"][0] + rows[0, 1:], rtol=1e-6)

    model = build(class_position=False)
    params = random_params(model)
    _, out = run(model)
    np.testing.assert_array_equal(out["tokens"][0, :1], params["cls"][0])
    np.testing.assert_allclose(
        out["tokens"][0, 1:], out["patches"][0] + params["pos_embedding"][0], rtol=1e-6
    )


def test_pooling_reads_the_tokens_it_names():
    for fields, prefix in [
        ({"pool": "gap", "class_token": True, "registers": 1}, 2),
        ({"pool": "none", "class_token": True}, 1),
        ({"pool": "cls", "registers": 3}, 4),
    ]:
        model = build(**fields)
        logits, out = run(model)
        encoded = np.asarray(out["encoded"])
        assert encoded.shape[1] == prefix + 6
        np.testing.assert_array_equal(out["encoded_patches"], encoded[:, prefix:])
        expected = {
            "gap": encoded[:, prefix:].mean(axis=1),
            "none": encoded[:, prefix:],
            "cls": encoded[:, 0],
        }[fields["pool"]]
        np.testing.assert_allclose(out["pooled"], expected, rtol=1e-5, atol=1e-6)
        assert logits.shape == (*expected.shape[:-1], CLASSES)


def test_attention_maps_come_without_changing_the_result():
    plain, shown = run(build()), run(build(), capture=("attention",))
    assert relative(shown[0], plain[0]) < 1e-5
    maps = shown[1]["attention01"]
    assert maps.shape == (4, 2, 7, 7)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    assert not [name for name in plain[1] if "attention" in name or "block" in name]
    with pytest.raises(ValueError, match="'maps' is not one of blocks, attention"):
        run(build(), capture=("maps",))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_and_its_logits_are_float32(dtype):
    exact_model, model = build(pool="map"), build(pool="map", dtype=dtype)
    params = random_params(exact_model)
    exact, _ = run(exact_model)
    logits, out = run(model, params=params)
    assert logits.dtype == jnp.float32
    assert out["tokens"].dtype == out["encoded"].dtype == dtype
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    # 2 layers of roundings of 2^-8 or 2^-11 each: a few of them, and surely not none.
    unit = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    assert 0.1 * unit < relative(logits, exact) < 10 * unit


def test_transformations_of_jax_compose():
    """vmap over images, grad inside, of a model with 5 channels and oblong patches."""
    model = build((6, 10, 5), patch=(3, 5), pool="gap")
    params, x = random_params(model), images((6, 10, 5))
    whole, _ = run(model)
    assert whole.shape == (4, CLASSES)

    def largest(image):
        return model.apply({"params": params}, image[None])[0].max()

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(largest)))(x)
    np.testing.assert_allclose(values, whole.max(axis=1), rtol=1e-5)
    assert gradients.shape == x.shape
    assert jnp.abs(gradients).min(axis=0).max() > 0


def test_another_image_size_resamples_the_table():
    from big_vit_lite.models.layers.positions import resample

    model = build(position_resample="bilinear")
    params = random_params(model)
    _, out = run(model, images((16, 8, 3)))
    rows = resample(params["pos_embedding"][0, 1:], (2, 3), (4, 2), "bilinear")
    np.testing.assert_allclose(out["tokens"][0, 1:], out["patches"][0] + rows, rtol=1e-5, atol=1e-6)


def test_fixed_positions_follow_the_image_or_their_grid():
    from big_vit_lite.models.layers.positions import resample, sincos2d

    for grid, rows in [(None, sincos2d((4, 2), 16)), ((2, 3), None)]:
        model = build(positions="sincos2d", position_grid=grid, pool="gap")
        if rows is None:
            rows = resample(sincos2d(grid, 16), grid, (4, 2), "cubic")
        params = random_params(model)
        assert "pos_embedding" not in params
        _, out = run(model, images((16, 8, 3)))
        np.testing.assert_allclose(out["tokens"][0], out["patches"][0] + rows, rtol=1e-5, atol=1e-6)


def test_biases_can_be_left_out():
    def biases(**fields):
        params = models.abstract_params(build(**fields))
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
        return {p for p in paths if "bias" in p}

    left = biases(bias=False, pool="map")
    assert left and all(
        "'query'" in p or "'key'" in p or "'value'" in p for p in left if "Att" in p
    )
    assert {p for p in left if "Att" not in p} == {"['embedding']['bias']", "['head']['bias']"}
    assert not [p for p in biases(qkv_bias=False) if "query" in p or "key" in p or "value" in p]
    assert "['embedding']['bias']" not in biases(patch_bias=False)


def test_auto_follows_the_platform():
    for platform, scan, remat, dtype, attention in [
        ("cpu", False, "dots", "float32", "matmul"),
        ("gpu", True, "dots", "bfloat16", "cudnn"),
        ("tpu", True, "dots", "bfloat16", "xla"),
    ]:
        model = build(platform=platform)
        assert (model.scan, model.remat) == (scan, remat)
        assert (model.block.dtype, model.block.attention) == (dtype, attention)
    assert build(platform="tpu", scan=False).remat == "none"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"heads": 3}, "model.width 16 does not divide by model.heads 3: use 2 heads, or a width"),
        ({"patch": 5}, "image height 8 is not a multiple of the patch height 5: use 10 pixels"),
        ({"positions": "sincos2d", "width": 18}, "divides by 4, not 18: use 16"),
        ({"patch_stride": 5}, r"patch_stride \(5, 5\) is larger than the patch \(4, 4\)"),
        ({"class_token": False}, "pool 'cls' reads the class token"),
        (
            {"position_offset": 0.1, "position_resample": "align_corners"},
            "position_offset 0.1 has no meaning",
        ),
        (
            {"attention": "cudnn"},
            "'cudnn' runs on GPUs in bfloat16 or float16, not on cpu in float32",
        ),
        ({"variant": "C/4"}, "did you mean"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(fields, text):
    with pytest.raises(InputError, match=text):
        build(**fields)


def test_images_that_do_not_fit_are_said():
    model = build()
    with pytest.raises(InputError, match="images have 1 channels, the model 3: set model.channels"):
        run(model, images((8, 12, 1)))
    with pytest.raises(InputError, match="image width 10 is not a multiple of the patch width 4"):
        run(model, images((8, 10, 3)))
