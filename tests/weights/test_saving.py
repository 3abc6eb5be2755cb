"""Weights go out as they came in, bit for bit, and the source libraries load them."""

import json

import jax
import numpy as np
import pytest
from weights import parity

from big_vit_lite import config, models, weights
from big_vit_lite.config import InputError
from big_vit_lite.weights.files import open_source
from big_vit_lite.weights.layouts import find
from big_vit_lite.weights.loading import nested
from big_vit_lite.weights.preprocessing import HALF, squash
from big_vit_lite.weights.rules import write
from big_vit_lite.weights.saving import save_again
from big_vit_lite.weights.steps import same

NAMES = sorted(path.stem for path in parity.GOLDENS.glob("*.npz"))
WRITTEN = [name for name in NAMES if find(name[:3]).file and name != "L07-siglip"]


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint8) if x.ndim else x.reshape(1).view(np.uint8)


def assert_same_file(old, new):
    assert old.arrays.keys() == new.arrays.keys()
    for name, stored in old.arrays.items():
        assert stored.dtype == new.arrays[name].dtype, name
        assert stored.shape == new.arrays[name].shape, name
        np.testing.assert_array_equal(bits(stored.read()), bits(new.arrays[name].read()), name)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_bit_exact(name, tmp_path):
    (tmp_path / "old").mkdir()
    source = open_source(parity.unpack(parity.golden(name), tmp_path / "old"))
    loaded = parity.loaded(name)
    layout = find(loaded.layout)
    if name not in WRITTEN:  # torch's pickles are read, not written: the table goes both ways
        flat = jax.tree_util.tree_leaves_with_path(loaded.params)
        flat = {"/".join(k.key for k in path): x for path, x in flat}
        arrays = write(layout.rules(loaded.sections, loaded.form), flat) | loaded.carried
        assert arrays.keys() == source.arrays.keys()
        for key, stored in source.arrays.items():
            back = np.asarray(arrays[key]).astype(stored.dtype)
            np.testing.assert_array_equal(bits(back), bits(stored.read()), key)
        told = "torch's pickles, which are not written here"
        if name == "L07-siglip":  # open_clip would build the tower of that name, with 12 heads
            told = "cannot say model.sizes .* whoever loads it would compute something else"
        with pytest.raises(InputError, match=told):
            save_again(tmp_path, loaded)
        return
    file = save_again(tmp_path / "new", loaded)
    assert_same_file(source, open_source(file))
    again = weights.load(file)
    assert again.sections == loaded.sections and again.layout == loaded.layout
    assert again.preprocessing == loaded.preprocessing


def tower(name="L09-vit"):
    return parity.loaded(name)


def test_our_own_parameters_go_out(tmp_path):
    """Stacked over depth, with no file that they came from, and in half precision."""
    loaded = tower("L13-dinov2")
    params = models.stack_layers(loaded.params)
    file = weights.save(tmp_path, params, loaded.sections, "transformers-dinov2", dtype="bfloat16")
    again = weights.load(file)
    assert not again.carried["embeddings.mask_token"].any()
    ours = jax.tree.leaves(loaded.params)
    for x, y in zip(ours, jax.tree.leaves(again.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=2.0**-8)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["architectures"] == ["Dinov2Model"] and about["model_type"] == "dinov2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


ACROSS = [
    ("L09-vit", "timm"),
    ("L15-vit", "transformers-vit"),
    ("L15-siglip", "big-vision-vit"),
    ("L11-clip", "open-clip"),
    ("L06-custom", "transformers-clip"),
    ("L12-siglip", "big-vision-pair"),
    ("L03-siglip", "transformers-siglip"),
    ("L17-registers", "transformers-dinov2-with-registers"),
    ("L17-gated", "transformers-dinov2"),
    ("L20-deit", "transformers-deit"),
    ("L20-deit", "timm-deit"),
    ("L04-vit", "open-clip"),
    ("L04-vit", "transformers-clip"),
    ("L05-resnet", "open-clip"),
    ("L01-augreg", "vit-jax"),
    ("L01-root", "vit-jax"),
    ("L13-classifier", "transformers-dinov2"),
    ("L14-classifier", "transformers-dinov2-with-registers"),
    ("L10-single", "transformers-deit"),
]


@pytest.mark.parametrize(("name", "layout"), ACROSS)
def test_from_one_layout_to_another(name, layout, tmp_path):
    """The parameters are the same again, and what is computed: all that sections say of it."""
    loaded = tower(name)
    sections = loaded.sections
    if name == "L09-vit":  # timm has no epsilon of 1e-12
        with pytest.raises(InputError) as error:
            weights.save(tmp_path, loaded.params, sections, layout)
        assert "cannot say model.norm_eps 1e-12: whoever loads it would" in str(error.value)
        assert not list(tmp_path.iterdir())
        changed = sections.model.model_copy(update={"norm_eps": 1e-6})
        sections = sections._replace(model=changed)
    said = loaded.preprocessing
    if name == "L03-siglip":  # transformers resizes with antialias
        with pytest.raises(InputError, match="transformers cannot say how images are prepared"):
            weights.save(tmp_path, loaded.params, sections, layout, said)
        said = squash(16, HALF)
    if layout == "big-vision-pair":  # whose readers presume another
        with pytest.raises(
            InputError, match=r"would read it as 'decode\|resize\(16, antialias=Fals"
        ):
            weights.save(tmp_path, loaded.params, sections, layout, said)
        said = None
    file = weights.save(tmp_path, loaded.params, sections, layout, said)
    again = weights.load(file, layout=layout)
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    if said and layout != "big-vision-vit":  # which has no place for it
        assert same(said, again.preprocessing)


@pytest.mark.parametrize(
    ("name", "layout", "told"),
    [
        ("L12-vision", "transformers-vit", "has no place for MAPHead_0/LayerNorm_0/bias, "),
        ("L09-vit", "big-vision-vit", "cannot say model.activation erf; model.norm_eps 1e-12"),
        ("L11-clip", "transformers-siglip", "has no place for img/cls, "),
        ("L15-mean", "transformers-vit", "has no place for "),
        ("L17-registers", "timm", "have no position for the class token: add the first row"),
        ("L15-hybrid", "timm", "timm names hybrids by architecture, and has none of (2, 1) blocks"),
        ("L01-hybrid", "timm", "timm names hybrids by architecture, and has none of (2, 1) blocks"),
        (
            "L01-root",
            "timm",
            "; model.stem_norm_eps 1e-06; model.stem_standardize deviation: whoever",
        ),
        (
            "L15-root",
            "vit-jax",
            "; model.stem_norm_eps 1e-05; model.stem_standardize variance: who",
        ),
        ("L01-hybrid", "transformers-vit", "has no place for stem/block1/unit1/conv1/kernel, "),
        ("L13-classifier", "timm", "timm has no ViT with a head of the class token and the mean p"),
        ("L10-single", "timm-deit", "and none with a distillation token and one head: choose"),
        ("L13-classifier", "dinov2", "are not written here"),
        ("L15-clip", "vit-jx", "is no layout of weights; did you mean 'vit-jax'?"),
    ],
)
def test_what_a_layout_cannot_hold_or_say_is_refused(name, layout, told, tmp_path):
    loaded = tower(name)
    with pytest.raises(InputError) as error:
        weights.save(tmp_path, loaded.params, loaded.sections, layout)
    assert told in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_of_the_sections_is_refused(tmp_path):
    loaded = tower()
    params = dict(loaded.params)
    params["haed"] = params.pop("head")
    with pytest.raises(InputError) as error:
        weights.save(tmp_path, params, loaded.sections, "transformers-vit")
    assert "head/bias: (7) (there is haed/bias)" in str(error.value)
    for arguments, told in (
        ({"dtype": "int8"}, "'int8' is no type of weights: use float32, float16, bfloat16"),
        ({"path": tmp_path / "x.npz"}, "transformers ViT is written as .safetensors"),
    ):
        arguments = {"path": tmp_path} | arguments
        path = arguments.pop("path")
        with pytest.raises(InputError) as error:
            weights.save(path, loaded.params, loaded.sections, "transformers-vit", **arguments)
        assert told in str(error.value)


def assert_equal_outputs(ours, theirs):
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.extra
@pytest.mark.parametrize("name", [n for n in WRITTEN if "L09" <= n[:3] <= "L14"])
def test_transformers_loads_what_we_write(name, tmp_path):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    hf = pytest.importorskip("transformers")
    loaded, arrays = tower(name), parity.golden(name)
    save_again(tmp_path, loaded)
    (architecture,) = json.loads((tmp_path / "config.json").read_text())["architectures"]
    model, about = getattr(hf, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"], about
    pixels = parity.recorder().torch_images(arrays["native/images"])
    with torch.no_grad():
        if loaded.family == "vit":
            out = model.eval()(pixels, output_hidden_states=True).hidden_states[-1]
            assert_equal_outputs(out.numpy(), arrays["native/block01"])
        else:
            tokens = torch.from_numpy(arrays["native/tokens"]).long()
            out = model.eval()(pixel_values=pixels, input_ids=tokens).logits_per_image
            assert_equal_outputs(out.numpy(), arrays["native/logits"])


@pytest.mark.extra
@pytest.mark.parametrize(
    "name", [n for n in WRITTEN if n[:3] in ("L15", "L16") and n != "L15-hybrid"]
)
def test_timm_loads_what_we_write(name, tmp_path):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    timm = pytest.importorskip("timm")
    loaded, arrays = tower(name), parity.golden(name)
    form = {k: x for k, x in loaded.form.items() if k == "pool_norm"}  # nothing but the model
    weights.save(tmp_path, loaded.params, loaded.sections, loaded.layout, form=form)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        out = model(parity.recorder().torch_images(arrays["native/images"])).numpy()
    assert_equal_outputs(out, arrays["native/logits"])


@pytest.mark.extra
@pytest.mark.parametrize("variant", ["R26+mu/32", "R50+mu/16"])
def test_timm_loads_hybrids_of_its_architectures(variant, tmp_path):
    """Whole ResNets, which are too large to be recorded, and back as timm saves them."""
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    timm = pytest.importorskip("timm")
    section = config.Model(
        variant=variant, activation="erf", image_size=64, classes=3,
        stem_norm_eps=1e-5, stem_standardize="variance",
    )  # fmt: skip
    sections = weights.Sections(section)
    rng = np.random.default_rng(0)
    params = nested({k: rng.standard_normal(x.shape).astype(np.float32) for k, x in
                     sections.leaves().items()})  # fmt: skip
    weights.save(tmp_path, params, sections, "timm")
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = rng.standard_normal((2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(parity.recorder().torch_images(x)).numpy()
    assert_equal_outputs(np.asarray(sections.build("cpu").apply({"params": params}, x)[0]), theirs)
    timm.models.save_for_hf(model, tmp_path / "again", safe_serialization=True)
    again = weights.load(tmp_path / "again" / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


@pytest.mark.extra
@pytest.mark.parametrize("name", ["L06-clip", "L06-custom", "L06-resnet", "L08-coca"])
def test_open_clip_loads_what_we_write(name, tmp_path):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    open_clip = pytest.importorskip("open_clip")
    loaded, arrays = tower(name), parity.golden(name)
    save_again(tmp_path, loaded)
    model = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    with torch.no_grad():
        images = parity.recorder().torch_images(arrays["native/images"])
        texts = torch.from_numpy(arrays["native/tokens"]).long()
        image = model.encode_image(images, normalize=True).numpy()
        text = model.encode_text(texts, normalize=True).numpy()
    assert_equal_outputs(image, arrays["native/img/features"])
    assert_equal_outputs(text, arrays["native/txt/features"])
