"""What is told of files that do not fit, settings that are not known, and layouts by name."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weights import parity, torch_format

from big_vit_lite import weights
from big_vit_lite.config import InputError
from big_vit_lite.models.layers.positions import sincos2d_mae
from big_vit_lite.weights.files import open_source
from big_vit_lite.weights.layouts import LAYOUTS, detect, find
from big_vit_lite.weights.rules import Rule, check, expected, read


def folder_of(name, tmp_path):
    parity.unpack(parity.golden(name), tmp_path)
    return tmp_path


def change_arrays(folder, change):
    file = folder / "model.safetensors"
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)


def change_config(folder, name="config.json", **fields):
    about = json.loads((folder / name).read_text()) | fields
    (folder / name).write_text(json.dumps(about))


def told(path, **options) -> str:
    with pytest.raises(InputError) as error:
        weights.load(path, **options)
    return str(error.value)


@pytest.mark.parametrize("name", sorted(p.stem for p in parity.GOLDENS.glob("*.npz")))
def test_each_file_is_of_one_layout(name, tmp_path):
    source = open_source(parity.unpack(parity.golden(name), tmp_path))
    assert [layout.number for layout in LAYOUTS if layout.fits(source)] == [name[:3]]
    assert detect(source) is find(name[:3])


def test_numbers_and_names_are_in_order_and_unlike():
    numbers = [x.number for x in LAYOUTS]
    assert numbers == [f"L{i:02}" for i in range(1, len(LAYOUTS) + 1)]
    assert len({x.name for x in LAYOUTS}) == len({x.title for x in LAYOUTS}) == len(LAYOUTS)


def test_both_sides_are_listed_with_the_nearest_names(tmp_path):
    folder = folder_of("L09-vit", tmp_path)

    def change(arrays):
        arrays["vit.embeddings.cls_tokens"] = arrays.pop("vit.embeddings.cls_token")
        arrays["extra.weight"] = np.zeros(3, np.float32)
        arrays["classifier.bias"] = np.zeros(8, np.float32)
        for i in (0, 1):
            del arrays[f"vit.encoder.layer.{i}.output.dense.bias"]

    change_arrays(folder, change)
    assert told(folder).splitlines() == [
        f"{folder}/model.safetensors does not fit transformers ViT, as which it was read:",
        "  not in the file (3):",
        "    vit.embeddings.cls_token: (1, 1, 32) (there is vit.embeddings.cls_tokens)",
        "    vit.encoder.layer.0.output.dense.bias: (32) and 1 more like "
        "vit.encoder.layer.*.output.dense.bias",
        "  only in the file (2):",
        "    extra.weight: (3)",
        "    vit.embeddings.cls_tokens: (1, 1, 32) (there is vit.embeddings.cls_token)",
        "  of another shape (1):",
        "    classifier.bias: is (8), should be (7)",
    ]


def test_a_missing_layer_and_the_settings_of_another_model(tmp_path):
    folder = folder_of("L12-siglip", tmp_path)
    change_config(folder, text_config={"hidden_size": 32, "num_attention_heads": 4,
                                       "intermediate_size": 64, "num_hidden_layers": 3,
                                       "vocab_size": 40, "max_position_embeddings": 17,
                                       "projection_size": 32})  # fmt: skip
    text = told(folder)
    assert (
        "not in the file (16):" in text and "text_model.encoder.layers.2.layer_norm1.bias" in text
    )


@pytest.mark.parametrize(
    ("name", "layout", "sentence"),
    [
        ("L09-vit", "transformers-clip", "is not laid out as transformers CLIP: it is laid out as "
         "transformers ViT."),
        ("L11-clip", "L12", "it is laid out as transformers CLIP."),
        ("L01-augreg", "dino", "it is laid out as ViT and AugReg .npz of vision_transformer."),
    ],
)  # fmt: skip
def test_another_family_than_said(name, layout, sentence, tmp_path):
    path = parity.unpack(parity.golden(name), tmp_path)
    assert sentence in told(path, layout=layout)


def test_no_layout_at_all(tmp_path):
    save_file({"conv1.weight": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    text = told(tmp_path / "x.safetensors")
    assert "a layout that is not known here: its 1 arrays are conv1.weight and so on" in text
    assert "its arrays are conv1.weight" in told(tmp_path / "x.safetensors", layout="timm")
    sentence = "'tim' is no layout of weights; did you mean 'timm'?"
    assert sentence in told(tmp_path / "x.safetensors", layout="tim")


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("L09-vit", {"hidden_act": "relu"}, "config.json has hidden_act 'relu', which the models"),
        ("L09-vit", {"num_attention_heads": "four"}, "does not say what it should"),
        ("L15-vit", {"architecture": None}, "or the JSON beside it does not say what it should"),
    ],
)
def test_settings_that_are_not_known(name, fields, sentence, tmp_path):
    folder = folder_of(name, tmp_path)
    change_config(folder, **fields)
    assert sentence in told(folder)


@pytest.mark.parametrize(
    ("tower", "fields", "sentence"),
    [
        ("vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type is 'avg' in open_clip_config"),
        ("text_cfg", {"hf_model_name": "xlm"}, "text_cfg.hf_model_name is 'xlm' in open_clip_conf"),
        ("text_cfg", {"pool_type": "first"}, "text_cfg.pool_type 'first' is not known here"),
    ],
)
def test_open_clip_settings_that_are_not_known(tower, fields, sentence, tmp_path):
    folder = folder_of("L06-clip", tmp_path)
    about = json.loads((folder / "open_clip_config.json").read_text())
    about["model_cfg"][tower] |= fields
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    assert sentence in told(folder)


def test_what_only_the_user_knows_is_asked_for(tmp_path):
    folder = folder_of("L06-clip", tmp_path)
    (folder / "open_clip_config.json").unlink()
    sentence = "does not say which GELU its blocks have (quick, erf or tanh), and a wrong guess"
    assert sentence in told(folder) and 'load it with known={"activation": ...}' in told(folder)
    known = {"activation": "quick"}
    assert "how many heads its image tower has" in told(folder, known=known)
    known |= {"image_heads": 4, "text_heads": 4}
    found = weights.load(folder, known=known)
    assert found.sections.text.activation == found.sections.model.activation == "quick"
    text = told(folder, known=known | {"headz": 4})
    assert 'known has "headz", and this layout asks for activation, image_heads, text_heads' in text


@pytest.mark.parametrize("name", ["L09-vit", "L11-clip", "L15-vit"])
def test_json_that_is_not_there_is_asked_for(name, tmp_path):
    folder = folder_of(name, tmp_path)
    (folder / "config.json").unlink()
    assert "has no config.json beside it, which says what the weights cannot: " in told(folder)


def test_a_grid_that_is_no_square(tmp_path):
    arrays = {k.removeprefix("npz/"): x for k, x in parity.golden("L02-map").items()
              if k.startswith("npz/")}  # fmt: skip
    arrays["params/pos_embedding"] = np.zeros((1, 8, 32), np.float32)
    np.savez(tmp_path / "vit.npz", **arrays)
    sentence = "has positions for 8 patches, which is no square, and does not say of which grid"
    assert sentence in told(tmp_path / "vit.npz")
    found = weights.load(tmp_path / "vit.npz", known={"grid": (2, 4)})
    assert found.sections.model.position_grid == (2, 4)
    assert found.sections.model.image_size == (8, 16)


def npz_of(name) -> dict:
    return {k.removeprefix("npz/"): x for k, x in parity.golden(name).items() if k[:4] == "npz/"}


def test_stacked_layers_and_flat_patches_of_big_vision(tmp_path):
    """As its scanned models and as SigLIP 2 have them."""
    arrays = npz_of("L02-map")
    first = "params/Transformer/encoderblock_0/"
    stacked = {k: x for k, x in arrays.items() if "/encoderblock_" not in k}
    for name in (name for name in arrays if name.startswith(first)):
        both = [arrays[name.replace("_0/", f"_{i}/", 1)] for i in (0, 1)]
        stacked[name.replace("encoderblock_0", "encoderblock")] = np.stack(both)
    kernel = stacked["params/embedding/kernel"]
    stacked["params/embedding/kernel"] = kernel.reshape(-1, kernel.shape[-1])
    np.savez(tmp_path / "vit.npz", **stacked)
    found, plain = weights.load(tmp_path / "vit.npz"), parity.loaded("L02-map")
    assert found.sections == plain.sections
    np.testing.assert_equal(found.params, plain.params)


def test_dinov2_in_chunks(tmp_path):
    """As it was saved from FSDP: blocks keep their numbers, in chunks of their own."""
    arrays = {k[4:]: x for k, x in parity.golden("L17-dinov2").items() if k[:4] == "pth/"}
    chunked = {re.sub(r"^blocks\.(\d)\.", r"blocks.\1.\1.", k): x for k, x in arrays.items()}
    assert "blocks.1.1.norm1.weight" in chunked
    path = torch_format.save_archive(tmp_path / "w.pth", chunked)
    found, plain = weights.load(path, known={"heads": 4}), parity.loaded("L17-dinov2")
    assert found.sections == plain.sections
    np.testing.assert_equal(found.params, plain.params)


def test_the_teacher_of_a_full_dino_checkpoint(tmp_path):
    arrays = {k[4:]: x for k, x in parity.golden("L19-dino").items() if k[:4] == "pth/"}
    backbone = {f"module.backbone.{k}": x for k, x in arrays.items()}
    head = {"module.head.mlp.0.weight": np.zeros((4, 32), np.float32),
            "module.head.last_layer.weight_g": np.ones((5, 1), np.float32)}  # fmt: skip
    student = {k: x * 0 for k, x in backbone.items()}
    root = {"student": student, "teacher": backbone | head, "epoch": 3}
    path = torch_format.save_archive(tmp_path / "full.pth", root)
    found = weights.load(path, known={"heads": 4})
    np.testing.assert_equal(found.params, parity.loaded("L19-dino").params)
    assert set(found.carried) == {"head.mlp.0.weight", "head.last_layer.weight_g"}


def test_an_mae_encoder_is_known_by_its_sinusoids(tmp_path):
    """Its names are DINO's, its rule of resampling positions is not."""
    arrays = {k[4:]: x for k, x in parity.golden("L19-dino").items() if k[:4] == "pth/"}
    arrays["pos_embed"] = arrays["pos_embed"].copy()
    arrays["pos_embed"][0, 1:] = sincos2d_mae((4, 4), 32)
    path = torch_format.save_archive(tmp_path / "mae.pth", {"model": arrays})
    found = weights.load(path, known={"heads": 4})
    assert found.layout == "mae" and found.sections.model.position_offset == 0.0
    arrays["pos_embed"][0, 3, 5] += 0.01
    torch_format.save_archive(path, {"model": arrays})
    assert weights.load(path, known={"heads": 4}).layout == "dino"
    assert weights.load(path, "mae", {"heads": 4}).sections == found.sections


def test_heads_of_an_unknown_width_are_asked_for(tmp_path):
    path = parity.unpack(parity.golden("L19-dino"), tmp_path)
    assert "does not say how many heads a model of width 32 has" in told(path)


@pytest.mark.parametrize(
    ("name", "kind", "holds"),
    [
        ("L11-clip", "vit", "clip or clip_vision_model"),
        ("L09-vit", "dinov2", "vit"),
        ("L10-deit", "vit", "deit"),
        ("L12-siglip", "siglip2", "siglip or siglip_vision_model"),
        ("L13-dinov2", "dinov2_with_registers", "dinov2"),
        ("L21-pretraining", "vit", "vit_mae"),
        ("L23-siglip2", "siglip", "siglip2 or siglip2_vision_model"),
    ],
)
def test_the_config_of_another_family(name, kind, holds, tmp_path):
    folder = folder_of(name, tmp_path)
    change_config(folder, model_type=kind)
    assert told(folder) == (
        f"{folder}/model.safetensors holds arrays of {holds}, and the config.json beside it is of "
        f"another model, model_type {kind!r}: fetch both again, into a folder of their own."
    )


def test_a_rule_goes_both_ways_and_numbers_keep_their_digits():
    rules = [Rule("layer.{i}.{j}.w", ("stage{i}_block{j:02}/w",))]
    leaves, unknown = read(rules, {"layer.1.7.w": np.ones(2), "layer.x": np.ones(1)})
    assert list(leaves) == ["stage1_block07/w"] and unknown == ["layer.x"]
    shape = np.zeros(2, np.float32)
    assert expected(rules, {"stage1_block12/w": shape}) == {"layer.1.12.w": (2,)}
    check({"a": (2,)}, {"a": (2,)}, "fits")
