"""CLIP's ResNet against open_clip's with every leaf and statistic random; sizes, norms, bad input.

Recorded by tools/record_clip_goldens.py.
"""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded

from big_vit_lite import config, models
from big_vit_lite.config import InputError
from big_vit_lite.models.resnet import ResNet, with_statistics
from big_vit_lite.weights.layouts.openai_clip import resnet_rules

GOLDENS = pathlib.Path(__file__).parent / "goldens"
STAGES, HEADS = (1, 2, 1, 1), 4
SEEN = ("stem", "stage0", "stage1", "stage2", "stage3", "features")


def build(shape=(64, 64, 3), **fields):
    small = {"variant": "RN50", "stages": STAGES, "width": 2, "heads": HEADS}
    return models.build_model(config.Model(**(small | fields)), shape, 12, "cpu")


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "resnet.npz") as file:
        return dict(file)


def parameters(arrays=None) -> dict:
    counts = (name for name in golden() if name.endswith("num_batches_tracked"))
    ignored = {name.removeprefix("file/") for name in counts}
    return recorded.read(arrays or golden(), resnet_rules("", "", HEADS), ignored.__contains__)


def relative(a, b) -> float:
    assert a.shape == b.shape
    return float(np.abs(np.asarray(a, np.float32) - b).max() / np.abs(b).max())


@functools.cache
def compiled():
    model = build()

    @jax.jit
    def run(params, images):
        features, out = model.apply({"params": params}, images)
        return out | {"features": features}

    return run


def errors(params, arrays) -> dict[str, float]:
    out = compiled()(params, arrays["images"])
    return {name: relative(out[name], arrays[name]) for name in SEEN}


def assert_equal(arrays: dict[str, np.ndarray]) -> None:
    found = errors(parameters(arrays), arrays)
    assert max(found.values()) < 1e-5, found


def test_equal_to_open_clip():
    assert_equal(golden())


def test_training_on_frozen_statistics_is_inference():
    model, params = build(), parameters()

    def program(train):
        def run(params):
            return model.apply({"params": params}, golden()["images"], train=train)

        return str(jax.make_jaxpr(run)(params))

    inference, training = program(False), program(True)
    assert training == inference


def test_training_on_the_statistics_of_the_batch():
    """Outputs, and the running averages after the step, are torch's."""
    model, params = build(batch_norm="batch"), parameters()

    @jax.jit
    def run(params, images):
        return model.apply({"params": params}, images, train=True, mutable=["statistics"])

    (features, out), new = run(params, golden()["images"])
    out["features"] = features
    found = {name: relative(out[name], golden()[f"training/{name}"]) for name in SEEN}
    assert max(found.values()) < 1e-4, found  # a variance over few positions amplifies roundings
    updated = with_statistics(params, new["statistics"])
    assert jax.tree.structure(updated) == jax.tree.structure(params)
    expected = parameters(golden() | {k.replace("new/", "file/"): x for k, x in golden().items()
                                      if k.startswith("new/")})  # fmt: skip
    moved = 0
    for (path, ours), theirs, old in zip(
        jax.tree_util.tree_leaves_with_path(updated),
        jax.tree.leaves(expected),
        jax.tree.leaves(params),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=str(path))
        moved += not np.array_equal(ours, old)
    norms = sum(path[-1].key == "mean" for path, _ in jax.tree_util.tree_leaves_with_path(params))
    assert moved == 2 * norms


def test_statistics_of_the_batch_are_those_of_all_devices():
    """A batch over 8 devices gives the outputs of one."""
    from big_vit_lite import parallel

    model = build((32, 32, 3), batch_norm="batch")
    params = parameters()
    params["pos_embedding"] = params["pos_embedding"][:, :2]
    images = np.random.default_rng(0).standard_normal((16, 32, 32, 3)).astype(np.float32)

    def run(params, images):
        return model.apply({"params": params}, images, train=True, mutable=["statistics"])

    alone = jax.jit(run)(params, images)
    mesh = parallel.make_mesh(config.Mesh(data=8))
    with jax.set_mesh(mesh):
        shared = jax.jit(run)(params, jax.device_put(images, parallel.batch_sharding(mesh)))
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        assert relative(a, np.asarray(b)) < 1e-4


def test_statistics_get_no_gradient_and_all_else_does():
    for mode in ("frozen", "batch"):
        model = build(batch_norm=mode)

        def loss(params, model=model):
            return jnp.sin(model.apply({"params": params}, golden()["images"], train=True)[0]).sum()

        gradient = jax.device_get(jax.jit(jax.grad(loss))(parameters()))
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert leaf.any() == (path[-1].key not in ("mean", "var")), (mode, path)


def keys_swapped(params):
    pool = params["pool"]
    pool["query"], pool["key"] = pool["key"], pool["query"]


def kernel_mirrored(params):
    kernel = params["stage1_block00"]["conv_1"]["kernel"]
    kernel[:] = np.flip(kernel, axis=(0, 1)).copy()


def variances_are_deviations(params):
    def square(path, leaf):
        return leaf**2 if path[-1].key == "var" else leaf

    params.update(jax.tree_util.tree_map_with_path(square, params))


WRONG = (keys_swapped, kernel_mirrored, variances_are_deviations)


@pytest.mark.parametrize("change", WRONG, ids=lambda f: f.__name__)
def test_the_nearest_wrong_one_fails(change):
    params = parameters()
    params = jax.tree.map(np.array, params)
    change(params)
    assert errors(params, golden())["features"] > 1e-4


def test_epsilon_is_that_of_torch():
    from big_vit_lite.models import resnet

    x = np.ones((1, 2, 2, 3), np.float32)
    norm = resnet.BatchNorm(jnp.float32)
    params = jax.jit(norm.init)(jax.random.key(0), x)["params"]
    params |= {"var": np.full(3, 1e-5, np.float32)}
    normed = jax.jit(norm.apply)({"params": params}, x)
    np.testing.assert_allclose(normed, 2e-5**-0.5, rtol=1e-6)


def test_other_sizes_resample_the_positions():
    model, params = build(), parameters()
    images = np.random.default_rng(0).standard_normal((1, 96, 32, 3)).astype(np.float32)
    features, out = jax.jit(lambda p: model.apply({"params": p}, images, capture=("attention",)))(
        params
    )
    assert out["stage3"].shape == (1, 3, 1, 64) and features.shape == (1, 12)
    assert out["attention00"].shape == (1, HEADS, 1, 4)
    np.testing.assert_allclose(out["attention00"].sum(-1), 1, rtol=1e-5)


def test_blocks_on_request_and_remat():
    images = golden()["images"][:, :32, :32]

    def gradient(remat):
        model = build((32, 32, 3), remat=remat)

        def loss(params):
            features, out = model.apply({"params": params}, images, capture=("blocks",))
            seen = {name: x for name, x in out.items() if name.startswith("block")}
            return jnp.sin(features).sum(), seen

        params = parameters()
        params["pos_embedding"] = params["pos_embedding"][:, :2]
        return jax.jit(jax.grad(loss, has_aux=True))(params)

    plain, seen = gradient("none")
    assert sorted(seen) == [f"block{i:02d}" for i in range(5)]
    again, _ = gradient("full")
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_initial_values():
    params = jax.device_get(models.init_params(build(width=16), jax.random.key(0)))
    block = params["stage1_block00"]
    assert not block["norm_2"]["scale"].any() and (block["norm_1"]["scale"] == 1).all()
    kernel = block["conv_1"]["kernel"]  # 3 x 3 x 32 inputs
    bound = (9 * 32) ** -0.5
    assert 0.98 * bound < float(np.abs(kernel).max()) <= bound
    for name in ("query", "key", "value", "out"):
        std = float(params["pool"][name]["kernel"].std())
        assert abs(std * 512**0.5 - 1) < 0.02, name


@pytest.mark.parametrize(
    ("shape", "fields", "text"),
    [
        ((64, 60, 3), {}, "image width 60 is not a multiple of 32, as ResNets want it: use 64"),
        ((64, 64, 3), {"depth": 3}, "model.depth is for Vision Transformers, and model.variant is"),
        ((64, 64, 3), {"pool": "gap"}, "model.pool is for Vision Transformers"),
        ((64, 64, 3), {"heads": 3}, "model.width 64 does not divide by model.heads 3"),
        ((64, 64, 3), {"width": 3, "heads": 4}, "width 3 of a ResNet must be even: use 4"),
        ((64, 64, 3), {"variant": "S/16"}, "model.stages is for ResNets and hybrids, and model.v"),
        ((64, 64, 3), {"stages": (1, 1, 1)}, "model.stages of a ResNet are 4 numbers, such as"),
        ((64, 64, 3), {"variant": "RN51", "stages": None}, "did you mean 'RN50'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(shape, fields, text):
    with pytest.raises(InputError, match=text):
        build(shape, **fields)


def test_images_that_do_not_fit_are_said():
    model = build()
    with pytest.raises(InputError, match="images have 1 channels, the model 3"):
        model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    with pytest.raises(InputError, match="image height 40 is not a multiple of 32"):
        model.init(jax.random.key(0), jnp.zeros((1, 40, 64, 3)))


def test_auto_follows_the_platform():
    model = models.build_model(config.Model(variant="RN50"), (224, 224, 3), 0, "gpu")
    assert isinstance(model, ResNet) and not model.scan
    assert (model.dtype, model.attention, model.remat) == ("bfloat16", "cudnn", "none")


def test_classification_refuses_a_resnet():
    from big_vit_lite.config.rules import check

    data = {"batch_size": 8, "train": {"source": "synthetic", "transform": ""}}
    for variant, faults in [("RN50", 1), ("B/16", 0)]:
        run = config.Run(steps=2, model={"variant": variant}, data=data)
        assert sum("ResNets are image towers" in str(f) for f in check(run)) == faults


@pytest.mark.extra
def test_equal_to_open_clip_live():
    pytest.importorskip("torch")
    path = GOLDENS.parents[2] / "tools" / "record_clip_goldens.py"
    spec = importlib.util.spec_from_file_location("record_clip_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert_equal(module.record_resnet(9))
