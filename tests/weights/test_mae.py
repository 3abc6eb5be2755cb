"""MAE's decoder as published, what a near miss would compute, and its encoder for other uses."""

import copy
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weights import parity

import big_vit_lite as bvl
from big_vit_lite import models, weights
from big_vit_lite.models import mae
from big_vit_lite.weights.loading import Loaded

NAME = "L21-pretraining"
DECODED = ("decoder/block00", "pixels")


class Headless(mae.Encoder):
    """The decoder's blocks without the class token, which comes back as zeros."""

    def __call__(self, x, key=None, capture=(), mask=None):
        if self.depth == 2:  # the encoder
            return super().__call__(x, key, capture, mask)
        y, out = super().__call__(x[:, 1:], key, capture, mask)
        pad = ((0, 0), (1, 0), (0, 0))
        return jnp.pad(y, pad), {name: jnp.pad(z, pad) for name, z in out.items()}


def masked(change):
    """masking, of which something is done otherwise."""
    right = mae.masking

    def wrong(noise, ratio):
        return change(right, noise, ratio)

    return wrong


WRONG = {
    "the patches of most noise are kept": masked(lambda right, x, r: right(-x, r)),
    "patches are not put back in their order": masked(
        lambda right, x, r: right(x, r)._replace(
            restore=jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape)
        )
    ),
    "the order is taken for its inverse": masked(
        lambda right, x, r: right(x, r)._replace(restore=jnp.argsort(x, axis=1))
    ),
}


@pytest.mark.parametrize("what", [*WRONG, "no class token", "query and key"])
def test_the_nearest_wrong_decoder_fails(what, monkeypatch):
    arrays, loaded = parity.golden(NAME), parity.loaded(NAME)
    params = loaded.params
    if what in WRONG:
        monkeypatch.setattr(mae, "masking", WRONG[what])
    elif what == "no class token":
        monkeypatch.setattr(mae, "Encoder", Headless)
    else:
        params = copy.deepcopy(params)
        block = params["decoder"]["Transformer"]["encoderblock_0"]
        attention = block["MultiHeadDotProductAttention_0"]
        attention["query"], attention["key"] = attention["key"], attention["query"]
    found = parity.errors(loaded.sections, params, arrays, "native")
    assert min(found[key] for key in DECODED) > parity.DIFFERENT, found


@pytest.fixture(scope="module")
def scanned():
    """The recorded model, scanned and compiled, with its parameters."""
    loaded = parity.loaded(NAME)
    model = loaded.sections.build("cpu", scan=True, remat="dots")
    assert model.scan
    run = jax.jit(lambda p, x, noise: model.apply({"params": p}, x, noise)[0])
    return run, models.stack_layers(loaded.params)


def test_scanned_layers_predict_the_same(scanned):
    run, params = scanned
    arrays = parity.golden(NAME)
    found = run(params, arrays["native/images"], arrays["native/noise"])
    wanted = arrays["native/pixels"]
    assert np.abs(found - wanted).max() < parity.SAME * np.abs(wanted).max()


def test_hidden_pixels_are_not_seen_and_kept_ones_are(scanned):
    run, params = scanned
    images, noise, hidden = (
        parity.golden(NAME)[f"native/{key}"] for key in ("images", "noise", "hidden")
    )
    where = hidden.reshape(2, 4, 4).astype(bool).repeat(4, axis=1).repeat(4, axis=2)[..., None]
    pixels = run(params, images, noise)
    for changed, same in ((np.where(where, 9, images), True), (np.where(where, images, 9), False)):
        other = run(params, changed.astype(np.float32), noise)
        assert np.array_equal(other, pixels) == same


def test_decoder_positions_are_a_sequence_in_transformers_at_other_sizes():
    """Of zeros for tokens, what enters the blocks is the positions."""
    wanted, loaded = parity.golden(NAME)["positions"], parity.loaded(NAME)
    decoder = loaded.sections.build("cpu").decoder.clone(depth=0)
    params = dict(loaded.params["decoder"])
    params |= jax.tree.map(np.zeros_like, {k: params[k] for k in ("embed", "mask_token")})

    def error(**fields):
        places = np.arange(12, dtype=np.int32)[None]
        _, out = decoder.clone(**fields).apply(
            {"params": params}, np.zeros((1, 13, 32), np.float32), places, (2, 6)
        )
        return np.abs(out["tokens"] - wanted).max() / np.abs(wanted).max()

    assert loaded.sections.reconstruction.position_resample == "sequence"
    assert error() < parity.SAME
    assert error(position_resample="cubic_torch") > parity.DIFFERENT  # on their grid


def test_the_hubs_names_of_the_decoders_blocks(tmp_path):
    """transformers 5 writes other names than it once did; each file goes out as it came."""
    parity.unpack(parity.golden(NAME), tmp_path)
    file = tmp_path / "model.safetensors"
    arrays = load_file(file)
    renamed = {k.replace("decoder_encoder.layer.", "decoder_layers."): x for k, x in arrays.items()}
    assert renamed.keys() != arrays.keys()
    save_file(renamed, file)
    loaded = weights.load(tmp_path)
    assert loaded.layout == "transformers-mae"
    jax.tree.map(np.testing.assert_array_equal, loaded.params, parity.loaded(NAME).params)
    again = load_file(weights.save_again(tmp_path / "again", loaded))
    assert again.keys() == renamed.keys()
    for key, x in renamed.items():
        np.testing.assert_array_equal(x, again[key])


def test_a_file_of_pre_training_goes_out_to_transformers(tmp_path):
    loaded = parity.loaded("L22-mae")
    file = weights.save(tmp_path, loaded.params, loaded.sections, "transformers-mae")
    again = weights.load(file)
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    assert again.sections.reconstruction.normalize and again.sections.model.norm_eps == 1e-6
    with pytest.raises(bvl.config.InputError, match="has no place for"):
        weights.save(tmp_path, loaded.params, loaded.sections, "timm")


def test_what_the_decoder_is_cannot_be_guessed_from_its_width(tmp_path):
    path = parity.unpack(parity.golden("L22-mae"), tmp_path)
    with pytest.raises(bvl.config.InputError, match="how many heads a decoder of width 32 has"):
        weights.load(path, known={"heads": 4})
    encoder = weights.load(path, "mae", {"heads": 4})
    assert encoder.family == "vit" and "decoder_pred.weight" in encoder.carried
    jax.tree.map(
        np.testing.assert_array_equal, encoder.params, parity.loaded("L22-mae").params["encoder"]
    )


def test_the_encoder_answers_alone(tmp_path):
    parity.unpack(parity.golden(NAME), tmp_path)
    vit, whole = bvl.load(tmp_path), parity.loaded(NAME)
    assert isinstance(whole, Loaded) and isinstance(vit.model, nn.Module)
    assert vit.preprocessing == whole.preprocessing and "decoder" not in vit.params
    images = parity.golden(NAME)["native/images"]
    found = vit.encode_image(images)
    model = whole.sections.build("cpu", remat="none", scan=False)
    wanted, _ = model.apply({"params": whole.params}, images, method="encode_image")
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_listing_of_the_page_is_the_sources_loss(tmp_path, monkeypatch):
    """With the noise that was recorded in place of a key's."""
    folder, arrays = tmp_path / "vit-mae-base", parity.golden(NAME)
    folder.mkdir()
    parity.unpack(arrays, folder)
    section = (parity.ROOT / "docs" / "weights.md").read_text().split("## Masked autoenc")[1]
    code = section.split("```python\n")[1].split("```")[0]
    given = 'images, rngs={"mask": key}'
    assert given in code
    monkeypatch.chdir(tmp_path)
    names = {"images": arrays["native/images"], "noise": arrays["native/noise"]}
    exec(compile(code.replace(given, "images, noise"), "docs/weights.md", "exec"), names)
    assert abs(float(names["loss"].mean()) / arrays["native/loss"] - 1) < 1e-5


@pytest.mark.extra
@pytest.mark.parametrize("name", ["L21-pretraining", "L21-own-units", "L21-encoder", "L22-mae"])
def test_transformers_loads_what_we_write(name, tmp_path):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    hf = pytest.importorskip("transformers")
    loaded, arrays = parity.loaded(name), parity.golden(name)
    weights.save(tmp_path, loaded.params, loaded.sections, "transformers-mae", form=loaded.form)
    (architecture,) = json.loads((tmp_path / "config.json").read_text())["architectures"]
    model, about = getattr(hf, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"], about
    pixels = parity.recorder().torch_images(arrays["native/images"])
    with torch.no_grad():
        out = model.eval()(pixels, noise=torch.from_numpy(arrays["native/noise"]))
    key = "encoded" if name == "L21-encoder" else "pixels"
    found = out.last_hidden_state if name == "L21-encoder" else out.logits
    wanted = arrays[f"native/{key}"]
    assert np.abs(found.numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()
    if key == "pixels":
        assert abs(float(out.loss) / arrays["native/loss"] - 1) < 1e-5
