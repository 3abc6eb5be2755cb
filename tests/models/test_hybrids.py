"""Hybrids: published sizes, the nearest wrong ResNets, training on any mesh, and what does not fit.

That outputs equal the sources' is proven in tests/weights, vision_transformer's and timm's.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from weights import parity

from big_vit_lite import config, models, parallel, report, tasks
from big_vit_lite.checks import images as check_images
from big_vit_lite.config import InputError
from big_vit_lite.models.layers import stem

TINY = {"variant": "R50+mu/16", "stages": (2, 1), "stem_width": 32, "patch": 1}


def build(shape=(32, 32, 3), classes=10, **fields):
    return models.build_model(config.Model(**TINY | fields), shape, classes, "cpu")


@pytest.mark.parametrize(
    ("variant", "side", "parameters"),
    [
        ("R+Ti/16", 224, 6_337_704),
        ("R26+S/32", 224, 36_431_912),
        ("R50+B/16", 224, 98_659_112),
        ("R50+B/16", 384, 98_950_952),
        ("R50+L/32", 224, 328_994_856),
    ],
)
def test_counts_are_the_published_ones(variant, side, parameters):
    """6.34, 36.43, 98.66, 98.95 and 328.99 million in timm's table; an extra test counts there."""
    model = models.build_model(config.Model(variant=variant), (side, side, 3), 1000, "tpu")
    shapes = models.abstract_params(model)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters
    patch = 16 if variant == "R50+B/16" else 32  # R+Ti/16, too: 8 positions of 4 pixels
    assert model.position_grid == (side // patch, side // patch)
    assert shapes["pos_embedding"].shape[1] == (side // patch) ** 2 + 1


def test_hybrids_are_read():
    assert models.parse_variant("R50+B/16") == (models.SIZES["B"], (1, 1), (3, 4, 9))
    assert models.parse_variant("R26+S/32").stages == (2, 2, 2, 2)
    for wrong, near in (("R50+b/16", "R50+B/16"), ("R26+l/32", "R26+L/32")):
        with pytest.raises(InputError, match=re.escape(f"did you mean '{near}'?")):
            models.parse_variant(wrong)


def symmetric(convolve):
    """As PyTorch pads: as much to the left as to the right, where TensorFlow has less."""

    def convolution(x, kernel, strides, padding, **options):
        around = [(side // 2, side // 2) for side in kernel.shape[:2]]
        return convolve(x, kernel, strides, around, **options)

    return convolution


def stride_in_the_first(convolve):
    """The stride of a block in its first convolution, as He 2016 had it, not in the second."""

    def convolution(x, kernel, strides, padding, **options):
        if kernel.shape[0] == 3 and strides == (2, 2):
            x, strides = x[:, ::2, ::2], (1, 1)
        return convolve(x, kernel, strides, padding, **options)

    return convolution


def mirrored(convolve):
    """A convolution in the strict sense."""
    return lambda x, kernel, *rest, **options: convolve(x, kernel[::-1, ::-1], *rest, **options)


@pytest.mark.parametrize(
    ("wrong", "first"),
    [
        (symmetric, "root"),
        (mirrored, "root"),
        (stride_in_the_first, "stage2"),
        ("kernels as they are", "stage1"),
        ("pooled by the mean", "root"),
        ("shortcut without its norm", "stage1"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_the_nearest_wrong_resnet_fails(wrong, first, monkeypatch):
    """From the maps where it enters to the logits, ten times over the tolerance at least."""
    arrays, loaded = parity.golden("L01-hybrid"), parity.loaded("L01-hybrid")
    if callable(wrong):
        monkeypatch.setattr(jax.lax, "conv_general_dilated", wrong(jax.lax.conv_general_dilated))
    elif wrong == "kernels as they are":
        monkeypatch.setitem(stem.STANDARDIZE, "deviation", lambda variance: jnp.float32(1e-4))
    elif wrong == "pooled by the mean":
        monkeypatch.setattr(stem.nn, "max_pool", stem.nn.avg_pool)
    else:
        norm = stem.GroupNorm.__call__
        plain = lambda self, x: x + 0 * norm(self, x) if self.name == "gn_proj" else norm(self, x)  # noqa: E731
        monkeypatch.setattr(stem.GroupNorm, "__call__", plain)
    found = parity.errors(loaded.sections, loaded.params, arrays, "native")
    order = ["root", "stage1", "stage2", "block00", "block01", "pooled", "logits"]
    after = order[order.index(first) :]
    assert min(found[name] for name in after) > parity.DIFFERENT, found
    assert all(found[name] < parity.SAME for name in order[: order.index(first)]), found


def test_a_new_block_is_the_identity_of_its_shortcut_and_norms_are_in_32_groups():
    params = models.init_params(build(), jax.random.key(0))["stem"]
    unit = params["block1"]["unit2"]
    assert not unit["gn3"]["scale"].any() and (unit["gn2"]["scale"] == 1).all()
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 128)).astype(np.float32)
    spec = stem.StemSpec((2, 1), 32)
    kept = stem.Unit(spec, 32, 1).apply({"params": unit}, x)
    np.testing.assert_array_equal(kept, np.maximum(x, 0))
    norm = stem.GroupNorm(spec)
    ones = {"scale": np.ones(128, np.float32), "bias": np.zeros(128, np.float32)}
    found = norm.apply({"params": ones}, x)
    groups = x.reshape(2, 16, 32, 4).astype(np.float64)
    mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    wanted = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.fixture
def small_fsdp(monkeypatch):
    """Lets leaves of tests' size be sharded."""
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)


def test_every_mesh_and_form_trains_alike(small_fsdp):
    """Scanned and unrolled, computed anew or kept, sharded or not: the same losses, which fall."""
    forms = [
        ({"scan": False, "remat": "none"}, config.Mesh()),
        ({"scan": True, "remat": "full"}, config.Mesh(data=2, fsdp=2)),
    ]
    losses = []
    for form, sizes in forms:
        noise = {"stochastic_depth": 0.2, "patch_dropout": 0.25, "depth": 2}
        run = small.make_run(4, TINY | noise | form | {"stages": (1, 1)}, optim={"lr": 3e-3})
        parts = max(1, sizes.fsdp)
        mesh = parallel.make_mesh(sizes, jax.devices()[: parts**2])
        found, state, _ = small.train(run, mesh, 3)
        losses.append(np.array(found))
        kernel = state["params"]["stem"]["block2"]["unit1"]["conv2"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // parts
    plain, sharded = losses
    assert abs(plain[0] - plain[-1]) > 1e-3
    assert np.abs(sharded / plain - 1).max() < 1e-5


def test_flops_are_those_of_the_traced_program():
    model = build((64, 32, 3), attention="reference", scan=True)
    run = small.make_run(model=TINY)
    params = models.abstract_params(model)
    images = jnp.zeros((1, 64, 32, 3))
    apply = lambda params, images: model.apply({"params": params}, images)[0]  # noqa: E731
    traced = report.count_flops(jax.make_jaxpr(apply)(params, images))
    assert tasks.train_flops(run, model, {}) == 3 * traced


def test_other_sizes_resample_the_positions_of_their_grid():
    model = build()
    assert model.position_grid == (4, 4)
    params = models.init_params(model, jax.random.key(0))
    _, out = model.apply({"params": params}, jnp.zeros((1, 16, 64, 3)))
    assert out["root"].shape == (1, 4, 16, 32) and out["stage2"].shape == (1, 2, 8, 256)
    assert out["encoded_patches"].shape == (1, 16, 32)


@pytest.mark.parametrize(
    ("shape", "fields", "text"),
    [
        ((32, 36, 3), {}, "image width 36 is not a multiple of 8, the pixels that a patch of this"),
        ((32, 32, 3), {"patch": 3}, "image height 32 is not a multiple of 24, .*: use 24 pixels"),
        (
            (32, 32, 3),
            {"stem_width": 48},
            "model.stem_width 48 does not divide into 32 groups: use",
        ),
        ((32, 32, 3), {"drop_edge": True}, "model.drop_edge is not for hybrids, whose ResNet pads"),
        (
            (32, 32, 3),
            {"variant": "mu/8"},
            "model.stages is for ResNets and hybrids, and model.var",
        ),
        (
            (32, 32, 3),
            {"variant": "mu/8", "stages": None, "stem_width": None, "stem_norm_eps": 1e-5},
            "model.stem_norm_eps is for ResNets and hybrids",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(shape, fields, text):
    with pytest.raises(InputError, match=text):
        build(shape, **fields)


def test_a_config_with_images_that_do_not_fit_is_refused():
    def faults(transform):
        split = {"source": "folder", "path": "photos", "transform": transform}
        run = config.Run(
            steps=2, model={"variant": "R50+B/16"}, data={"batch_size": 8, "train": split}
        )
        return [str(fault) for fault in check_images(run)]

    assert faults("decode|resize(224)") == []
    [text] = faults("decode|resize(230)")
    assert "images of 230x230 do not divide into patches of 16x16; make images of 224x224" in text


@pytest.mark.extra
def test_counts_are_timms():
    pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    timm = pytest.importorskip("timm")
    names = {
        "R+Ti/16": "vit_tiny_r_s16_p8_224",
        "R26+S/32": "vit_small_r26_s32_224",
        "R50+B/16": "vit_base_r50_s16_384",
        "R50+L/32": "vit_large_r50_s32_224",
    }
    for variant, name in names.items():
        theirs = sum(x.numel() for x in timm.create_model(name, num_classes=1000).parameters())
        side = int(name[-3:])
        model = models.build_model(config.Model(variant=variant), (side, side, 3), 1000, "cpu")
        shapes = models.abstract_params(model)
        assert sum(x.size for x in jax.tree.leaves(shapes)) == theirs
