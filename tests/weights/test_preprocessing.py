"""What files and the JSON beside them say of preprocessing, and what is not understood of it."""

import json

import pytest
from weights import parity

from big_vit_lite import weights

PREPROCESSING = {
    "L01-augreg": ("decode|resize(16, antialias=False)", 0.5),
    "L09-vit": ("decode|resize(16, 'bilinear')", 0.5),
    "L10-deit": ("decode|resize(18, 'bicubic')|central_crop(16)", 0.5),
    "L11-clip": ("decode|resize_small(16, 'bicubic', rule='torchvision')|central_crop(16)",
                 0.48145466),
    "L12-siglip": ("decode|resize(16, 'bicubic')", 0.5),
    "L13-dinov2": ("decode|resize_small(18, 'bicubic', rule='torchvision')|central_crop(16)",
                   0.485),
    "L06-clip": ("decode|resize(16, 'bicubic')", 0.5),
    "L04-vit": ("decode|resize_small(16, 'bicubic', rule='torchvision')"
                "|central_crop(16, rule='torchvision')", 0.48145466),
    "L15-vit": ("decode|resize_small(17, 'bicubic', rule='torchvision')"
                "|central_crop(16, rule='torchvision')", 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", PREPROCESSING)
def test_preprocessing_is_the_sources(name):
    """tests/data/test_preprocessing.py holds these transforms to be the source's bit for bit."""
    found = parity.loaded(name).preprocessing
    assert (found.transform, found.mean[0]) == PREPROCESSING[name]
    assert len(found.mean) == len(found.std) == 3


IMAGENET = "decode|resize_small({}, 'bicubic', rule='torchvision')|central_crop({}, rule='torchvisi"


@pytest.mark.parametrize(
    ("name", "file", "sides"),
    [
        ("L20-deit", "deit_base_distilled_patch16_384-d0272ac0", (18, 16)),
        ("L20-deit", "deit_base_distilled_patch16_384", None),
        ("L19-dino", "dino_deitsmall8_300ep_pretrain", (256, 224)),
        ("L19-dino", "my_dino_deitsmall8_pretrain", None),
        ("L18-mae", "mae_finetuned_vit_base", (256, 224)),
        ("L18-mae", "model", None),
        ("L17-dinov2", "model", (256, 224)),
        ("L22-mae", "model", (256, 224)),
    ],
)
def test_a_plain_vit_has_no_preprocessing_but_of_a_published_name(name, file, sides, tmp_path):
    """timm's ViTs of other preprocessing have the same arrays; DINOv2's and MAE's are their own."""
    old = parity.unpack(parity.golden(name), tmp_path)
    loaded = weights.load(old.rename(tmp_path / f"{file}.pth"), known=parity.KNOWN[name[:3]])
    if sides is None:
        assert loaded.preprocessing is None and not loaded.preprocessing_fault
    else:
        assert loaded.preprocessing.transform.startswith(IMAGENET.format(*sides))
        assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("name", "file", "fields", "reason"),
    [
        ("L09-vit", "preprocessor_config.json", {"resample": 4}, "resample 4"),
        ("L09-vit", "preprocessor_config.json", {"do_rescale": False}, "do_rescale is false"),
        ("L09-vit", "preprocessor_config.json", {"rescale_factor": 0.5}, "rescale_factor 0.5"),
        ("L13-dinov2", "preprocessor_config.json", {"size": {"longest_edge": 9}}, "it lacks 'heig"),
        ("L11-clip", "preprocessor_config.json", {"image_std": [0, 0, 0]}, "mean (0.48145466, "),
        ("L15-vit", "config.json", {"crop_mode": "border"}, "crop_mode 'border' to 16x16"),
        ("L15-vit", "config.json", {"interpolation": "box"}, "interpolation 'box'"),
        ("L06-clip", "open_clip_config.json", {"resize_mode": "longest"}, "resize_mode 'longest'"),
    ],
)
def test_preprocessing_that_is_not_understood_is_a_fault_only_where_it_is_needed(
    name, file, fields, reason, tmp_path
):
    folder = parity.unpack(parity.golden(name), tmp_path)
    path = folder / file
    about = json.loads(path.read_text())
    inner = {"config.json": "pretrained_cfg", "open_clip_config.json": "preprocess_cfg"}.get(file)
    about = about | {inner: about[inner] | fields} if inner else about | fields
    path.write_text(json.dumps(about))
    loaded = weights.load(folder)
    assert loaded.preprocessing is None and loaded.sections == parity.loaded(name).sections
    fault = loaded.preprocessing_fault
    assert (
        f"how images were prepared is not understood from the {file} beside it ({reason}" in fault
    )
    assert fault.endswith(": give transform=, mean= and std= yourself.")
    assert loaded.text == parity.loaded(name).text  # CLIP's tokens are known all the same
    weights.save_again(tmp_path / "again", loaded)
    again = json.loads((tmp_path / "again" / file).read_text())
    assert (again[inner] if inner else again) == (about[inner] if inner else about)


@pytest.mark.parametrize(
    ("fields", "transform", "mean"),
    [
        ({"do_resize": False}, "decode", 0.5),
        ({"do_normalize": False}, "decode|resize(16, 'bilinear')", 0.0),
        ({"resample": 1}, "decode|resize(16, 'lanczos')", 0.5),
    ],
)
def test_what_a_preprocessor_config_leaves_out(fields, transform, mean, tmp_path):
    folder = parity.unpack(parity.golden("L09-vit"), tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    found = weights.load(folder).preprocessing
    assert (found.transform, found.mean[0], found.std[0]) == (transform, mean, 0.5 if mean else 1.0)


def test_without_a_preprocessor_config_none_is_guessed():
    assert parity.loaded("L13-gated").preprocessing is None
