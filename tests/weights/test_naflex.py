"""SigLIP 2 of variable shape: several shapes in one batch, as the source sees them, end to end."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image as Pillow
from weights import parity

from big_vit_lite import models, predict, serving, weights
from big_vit_lite.config import InputError, rules
from big_vit_lite.models.layers.positions import resample_matrix, resampled_rows
from big_vit_lite.pretrained import loading

NAME = "L23-siglip2"


def test_parameters_of_a_fixed_size_are_the_same_ones():
    loaded = parity.loaded(NAME)
    fixed = loaded.sections.model.model_copy(update={"max_patches": None})
    leaves = loaded.sections._replace(model=fixed).leaves()
    assert leaves == loaded.sections.leaves()


@pytest.mark.parametrize("what", ["height and width swapped", "filling is looked at"])
def test_the_nearest_wrong_shapes_fail(what):
    """tests/weights/test_parity.py has the rule of positions without antialias."""
    arrays, loaded = dict(parity.golden(NAME)), parity.loaded(NAME)
    if what == "filling is looked at":
        arrays["native/mask"] = np.ones_like(arrays["native/mask"])
    else:
        arrays["native/positions"] = arrays["native/positions"][..., ::-1]
    found = parity.errors(loaded.sections, loaded.params, arrays, "native")
    shown = ("img/block00", "img/block01", "img/encoded", "img/features", "logits")
    assert min(found[key] for key in shown) > parity.DIFFERENT, found
    assert found["txt/features"] < parity.SAME


@pytest.mark.parametrize("rule", ["bilinear_antialiased", "bilinear"])
def test_positions_of_a_batch_are_those_of_each_image(rule):
    """Of grids known while tracing, and for the antialiased rule of jax, as big_vision calls it."""
    table = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    grids = np.array([(2, 8), (7, 3), (4, 4)])
    at = np.zeros((3, 21, 2), np.int32)
    for row, (rows, columns) in enumerate(grids):
        n = rows * columns
        at[row, :n] = np.stack(np.divmod(np.arange(n), columns), axis=-1)
    run = jax.jit(lambda table, grids, at: resampled_rows(table, (4, 4), grids, at, rule))
    found = np.asarray(run(table, grids, at))
    for row, (rows, columns) in enumerate(grids):
        along = resample_matrix(4, int(rows), rule), resample_matrix(4, int(columns), rule)
        wanted = np.einsum("im,jn,mnd->ijd", *along, table.reshape(4, 4, 6)).reshape(-1, 6)
        np.testing.assert_allclose(found[row, : rows * columns], wanted, rtol=1e-5, atol=1e-6)
    if rule == "bilinear":
        return
    scale, shift = jnp.array([0.5, 2.0]), jnp.zeros(2)
    theirs = jax.jit(
        lambda x: jax.image.scale_and_translate(
            x, (2, 8, 6), (0, 1), scale, shift, method="linear", antialias=True
        )
    )(table.reshape(4, 4, 6))
    np.testing.assert_allclose(found[0, :16], theirs.reshape(16, 6), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """What docs/weights.md does with images of several shapes."""
    folder = tmp_path_factory.mktemp("listing")
    weights_at = folder / "google" / "siglip2-base-patch16-naflex"
    weights_at.mkdir(parents=True)
    parity.unpack(parity.golden(NAME), weights_at)
    for name, pixels in zip(("wide", "tall"), pictures(), strict=False):
        Pillow.fromarray(pixels).save(folder / f"{name}.jpg")
    section = (parity.ROOT / "docs" / "weights.md").read_text().split("## Images of any shape")[1]
    code, names = section.split("```python\n")[1].split("```")[0], {}
    with contextlib.chdir(folder):
        exec(compile(code, "docs/weights.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def siglip2(listing):
    return listing["siglip"]


def pictures():
    golden = parity.golden(NAME)
    return [golden[f"picture/{i}"] for i in range(3)]


def test_pictures_become_what_the_processor_makes_of_them(siglip2):
    golden = parity.golden(NAME)
    assert siglip2.preprocessing.transform == "decode|patchify(4, 16)"
    made = siglip2.preprocess(pictures())
    np.testing.assert_array_equal(made.mask, golden["processed/mask"])
    np.testing.assert_array_equal(made.grid(), golden["processed/shapes"])
    np.testing.assert_allclose(made.patches, golden["processed/patches"], rtol=0, atol=3e-7)
    assert len(np.unique(golden["processed/shapes"], axis=0)) == 3


def test_images_of_several_shapes_are_encoded_together(siglip2):
    """Whatever stands in the filling behind them, and whatever the others are."""
    images = pictures()[:2]
    found = siglip2.encode_image(images)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert float(jnp.abs(found[0] - found[1]).max()) > 1e-3
    patches = siglip2.preprocess(images)
    assert not patches.mask.all()
    filled = models.Patches(
        jnp.where(patches.mask[:, :, None], patches.patches, 9.0),
        np.where(patches.mask[:, :, None], patches.positions, 3),
        patches.mask,
    )
    np.testing.assert_allclose(siglip2.encode_image(filled), found, rtol=1e-4, atol=1e-6)
    turned = siglip2.encode_image(images[::-1])
    np.testing.assert_allclose(turned, found[::-1], rtol=1e-4, atol=1e-6)


def test_the_listing_of_the_page_encodes_files_of_several_shapes(listing):
    assert isinstance(listing["patches"], models.Patches)
    shapes = parity.golden(NAME)["processed/shapes"]
    np.testing.assert_array_equal(listing["patches"].grid(), shapes[:2])
    assert listing["features"].shape == (2, 32)


def test_predict_reads_files_of_several_shapes(tmp_path, monkeypatch, capsys):
    """In batches of three of four images, the last of them with rows of nothing but filling."""
    folder = tmp_path / "siglip2"
    folder.mkdir()
    parity.unpack(parity.golden(NAME), folder)
    for i, pixels in enumerate([*pictures(), pictures()[0][:, ::-1]]):
        Pillow.fromarray(pixels).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.chdir(tmp_path)
    words = ["embed", "siglip2", *(f"{i}.png" for i in range(4)), "--out", "made.npy"]
    assert predict.main([*words, "--batch_size", "3"]) == 0, capsys.readouterr().err
    wanted = np.asarray(loading.load(folder).encode_image([f"{i}.png" for i in range(4)]))
    np.testing.assert_allclose(np.load("made.npy"), wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(wanted[1:] - wanted[:-1]).max(1).min() > 1e-3


def test_export_refuses_it(siglip2, tmp_path):
    with pytest.raises(InputError, match=r"\(NaFlex\), which exported functions do not"):
        serving.export(siglip2, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_what_does_not_fit_is_told_of(siglip2, tmp_path):
    with pytest.raises(InputError, match=r"reads models.Patches of 4x4 pixels and 3 channels, 48 "):
        siglip2.encode_image(np.zeros((1, 16, 16, 3), np.float32))
    model = siglip2.sections.model
    for fields, told in (
        ({"pool": "cls"}, "and a class token is not known for them: use pool map or gap"),
        ({"position_resample": "cubic"}, "and model.position_resample 'cubic' is not known"),
        ({"registers": 2}, "and model.registers is not known for them"),
    ):
        sections = weights.Sections(model.model_copy(update=fields))
        with pytest.raises(InputError, match=told):
            sections.build("cpu")
    (fault,) = rules.check(small.make_run(model={"max_patches": 16}))
    assert fault.key == "model.max_patches" and "images of one size" in str(fault)
    loaded = parity.loaded(NAME)
    for layout, told in (
        ("transformers-siglip", "cannot say model.max_patches 16"),
        ("big-vision-pair", "cannot say model.max_patches 16"),
    ):
        with pytest.raises(InputError, match=told):
            weights.save(tmp_path, loaded.params, loaded.sections, layout)


@pytest.mark.parametrize(
    ("name", "layout"), [(NAME, "big-vision-naflex"), ("L24-siglip2", "transformers-siglip2")]
)
def test_from_one_house_to_the_other(name, layout, tmp_path):
    loaded = parity.loaded(name)
    file = weights.save(tmp_path, loaded.params, loaded.sections, layout, loaded.preprocessing)
    again = weights.load(file)
    assert again.layout == layout and again.preprocessing == loaded.preprocessing
    assert again.sections.model == loaded.sections.model
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


@pytest.mark.extra
@pytest.mark.parametrize("name", [NAME, "L23-vision", "L24-siglip2"])
def test_transformers_loads_what_we_write(name, tmp_path):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    hf = pytest.importorskip("transformers")
    loaded, arrays = parity.loaded(name), parity.golden(name)
    weights.save(
        tmp_path, loaded.params, loaded.sections, "transformers-siglip2", loaded.preprocessing
    )
    (architecture,) = json.loads((tmp_path / "config.json").read_text())["architectures"]
    model, about = getattr(hf, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"], about
    shapes = arrays["native/positions"].max(axis=1) + 1
    inputs = {
        "pixel_values": torch.from_numpy(arrays["native/images"]),
        "pixel_attention_mask": torch.from_numpy(arrays["native/mask"]).int(),
        "spatial_shapes": torch.from_numpy(shapes).long(),
    }
    if loaded.family == "clip":
        inputs["input_ids"] = torch.from_numpy(arrays["native/tokens"]).long()
    with torch.no_grad():
        out = model.eval()(**inputs)
    found = out.logits_per_image if loaded.family == "clip" else out.pooler_output
    wanted = arrays["native/logits"]
    assert np.abs(found.numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()
    about = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (about["patch_size"], about["max_num_patches"]) == (4, 16)


@pytest.mark.extra
def test_pictures_are_those_of_both_processors_at_hand(siglip2):
    """Pillow's and torchvision's, which differ by a grey level at most."""
    pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    hf = pytest.importorskip("transformers")
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((31, 95), (150, 20))]
    ours = siglip2.preprocess(images)
    theirs = hf.Siglip2ImageProcessor(patch_size=4, max_num_patches=16)(images, return_tensors="np")
    np.testing.assert_array_equal(ours.mask, theirs["pixel_attention_mask"].astype(bool))
    difference = np.abs(np.asarray(ours.patches) - theirs["pixel_values"])
    assert difference.max() < 1.01 / 127.5
