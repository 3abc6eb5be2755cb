"""MAE: which patches are hidden, published sizes, initial values, and what is refused.

tests/weights/test_mae.py compares with published implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, models
from big_vit_lite.config import InputError
from big_vit_lite.models.mae import masking
from big_vit_lite.weights import Sections

TINY = config.Model(variant="mu/4", image_size=16, depth=2, activation="erf", scan=False)
DECODER = config.Reconstruction(width=16, depth=2, heads=2, mlp_dim=32)


def build(model=TINY, decoder=DECODER, **fields):
    return Sections(model, reconstruction=decoder).build("cpu", **fields)


def test_as_many_are_kept_as_published_and_each_image_has_its_own():
    noise = np.random.default_rng(0).random((8, 196), np.float32)
    kept, restore, hidden = masking(noise, 0.75)
    kept, restore, hidden = map(np.asarray, (kept, restore, hidden))
    assert kept.shape == (8, 49) and hidden.sum() == 8 * 147
    for row in range(8):
        least = np.argsort(noise[row])[:49]
        np.testing.assert_array_equal(kept[row], least)
        assert not hidden[row, least].any()
        np.testing.assert_array_equal(restore[row, kept[row]], np.arange(49))
    assert len({tuple(row) for row in np.asarray(kept)}) == 8
    few = jax.eval_shape(lambda: masking(noise[:, :10], 0.75))
    assert few.kept.shape == (8, 2)  # 2.5 is cut off


@pytest.mark.parametrize(
    ("variant", "trained", "tables"),
    [
        ("B/16", 111_655_680, 252_160),
        ("L/16", 329_239_296, 302_592),
        ("H/14", 656_613_964, 460_544),
    ],
)
def test_sizes_are_the_published_ones(variant, trained, tables):
    """Of transformers' ViTMAEForPreTraining, whose fixed tables are no leaves of ours."""
    model = config.Model(variant=variant, image_size=224, positions="sincos2d_mae")
    fixed = Sections(model, reconstruction=config.Reconstruction())
    stored = Sections(
        model.model_copy(update={"positions": "learned"}),
        reconstruction=config.Reconstruction(positions="learned"),
    )
    sizes = [sum(int(np.prod(x.shape)) for x in s.leaves().values()) for s in (fixed, stored)]
    assert sizes == [trained, trained + tables]


@pytest.fixture(scope="module")
def shallow():
    """A model without blocks, which hides and puts back all the same, and its parameters."""
    model = build()
    model = model.clone(encoder=model.encoder.clone(depth=0), decoder=model.decoder.clone(depth=0))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 16)))
    )
    return model, jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes["params"])


def test_the_key_hides_other_patches_of_each_image(shallow):
    model, params = shallow
    images = jnp.ones((2, 16, 16, 3))
    found = [
        model.apply({"params": params}, images, rngs={"mask": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    first, same, other = (np.asarray(out["hidden"]) for _, out in found)
    assert found[0][0].shape == (2, 16, 48) and first.sum(axis=1).tolist() == [12, 12]
    assert (first == same).all() and (first != other).any() and (first[0] != first[1]).any()


def test_scanned_parameters_have_a_depth_axis_in_both_parts():
    decoder = DECODER.model_copy(update={"depth": 3})
    made = [build(decoder=decoder, scan=scan) for scan in (False, True)]
    unrolled, scanned = map(models.abstract_params, made)
    assert models.stack_layers(unrolled) == scanned
    norms = [scanned[part]["Transformer"]["encoderblock"]["LayerNorm_0"] for part in scanned]
    assert [norm["scale"].shape for norm in norms] == [(3, 16), (2, 32)]  # decoder, encoder


def test_what_does_not_fit_is_told_of(shallow):
    model, params = shallow
    images = jnp.zeros((2, 16, 16, 3))
    with pytest.raises(InputError, match=r'give noise \(b, n\), or rngs={"mask": key}'):
        model.apply({"params": params}, images)
    with pytest.raises(InputError, match=r"noise is \(2, 9\), and the images have 16 patches"):
        model.apply({"params": params}, images, jnp.zeros((2, 9)))
    for fields, told in (
        ({"registers": 2}, "hides patches of a Vision Transformer with a class token"),
        ({"pool": "map"}, "hides patches of a Vision Transformer with a class token"),
        ({"patch_stride": 2}, "predicts the pixels of patches that tile the image"),
    ):
        with pytest.raises(InputError, match=told):
            build(TINY.model_copy(update=fields))
    for fields, told in (
        ({"heads": 3}, "reconstruction.width 16 does not divide by reconstruction.heads 3"),
        ({"mask_ratio": 0.0}, "reconstruction.mask_ratio 0.0 hides 0 of 16 patches"),
        ({"width": 18}, "needs a width that divides by 4, not 18: use 16"),
    ):
        with pytest.raises(InputError, match=told):
            build(decoder=DECODER.model_copy(update=fields))
