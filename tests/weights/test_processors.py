"""Preprocessing goes out in each house's words and reads as the same again, or is refused."""

import json

import numpy as np
import pytest
from weights import parity

from big_vit_lite import config, weights
from big_vit_lite.config import InputError
from big_vit_lite.data import transforms
from big_vit_lite.weights.preprocessing import (
    CLIP,
    HALF,
    IMAGENET,
    Preprocessing,
    from_open_clip,
    from_timm,
    from_transformers,
    shortest,
)
from big_vit_lite.weights.processors import to_open_clip, to_timm, to_transformers
from big_vit_lite.weights.steps import same

MODEL = config.Model(variant="B/16", image_size=224)
EDGE = "decode|resize_small({}, {!r}, rule='torchvision')|central_crop({})"


def through(house, found, model=MODEL, kind="ViTImageProcessor"):
    """(JSON, what it reads as)."""
    if house == "transformers":
        about = json.loads(json.dumps(to_transformers(found, kind)))
        return about, from_transformers(about)
    if house == "timm":
        about = json.loads(json.dumps(to_timm(model, found, None)))
        return about, from_timm(about)
    about = json.loads(json.dumps(to_open_clip(model, found, None)))
    return about, from_open_clip(about, model.image_size)


SAID = [
    ("transformers", "decode"),
    ("transformers", "decode|central_crop(224)"),
    ("transformers", "decode|resize(size=224)"),
    ("transformers", "decode|to_size((192, 256), method='bicubic')|central_crop((190, 250))"),
    ("transformers", "decode|resize(224, 'nearest', antialias=False)"),
    ("transformers", "decode|resize_small(256, 'lanczos')"),
    ("transformers", EDGE.format(256, "bicubic", 224)),
    ("transformers", ""),  # pixels of three channels
    ("timm", EDGE.format(235, "bicubic", 224)),
    ("timm", "decode|resize(224)"),
    ("timm", "decode|resize((192, 256), 'lanczos')"),
    ("timm", "decode|resize((250, 220))|central_crop((225, 198))"),
    ("open_clip", EDGE.format(224, "bilinear", 224)),
    ("open_clip", "decode|resize(224, 'bicubic')|central_crop(224)"),
]


@pytest.mark.parametrize(("house", "transform"), SAID)
def test_it_reads_as_the_same(house, transform):
    found = Preprocessing(transform, *CLIP)
    _, again = through(house, found)
    assert same(found, again), again
    assert (again.mean, again.std) == CLIP


REFUSED = [
    ("transformers", "decode|flip|resize(224)"),
    ("transformers", "decode|resize(224, antialias=False)"),
    ("transformers", "decode|resize_small(256)|central_crop(224)"),  # by area
    ("transformers", "decode(exif=True)|resize(224)"),
    ("transformers", "decode(channels=1)|resize(224)"),
    ("transformers", "decode|patchify(16, 256)"),
    ("timm", "decode"),
    ("timm", "decode|resize_small(256, 'bicubic')"),
    ("timm", EDGE.format(200, "bicubic", 224)),
    ("timm", EDGE.format(256, "bicubic", (224, 192))),
    ("timm", "decode|resize((448, 224))|central_crop((112, 112))"),
    ("timm", "decode|resize(224, 'area')"),
    ("open_clip", EDGE.format(240, "bicubic", 224)),
    ("open_clip", EDGE.format(256, "bicubic", 256)),
    ("open_clip", "decode|resize(224, 'lanczos')"),
    ("open_clip", "decode|resize(224, antialias=False)"),
]


@pytest.mark.parametrize(("house", "transform"), REFUSED)
def test_what_a_house_has_no_words_for_is_refused(house, transform):
    with pytest.raises(InputError) as error:
        through(house, Preprocessing(transform, *HALF))
    text = str(error.value)
    assert text.startswith(f"{house} cannot say how images are prepared here, {transform!r}: after")
    assert "a plain decode it has resize" in text
    assert text.endswith(", or with preprocessing=None and hand the transform on yourself.")


def test_statistics_of_any_sequence():
    """NumPy's numbers, which JSON has not."""
    found = Preprocessing("decode|resize(224)", np.float32([0.5, 0.25, 0.5]), [0.5, 0.5, 1])
    for house in ("transformers", "timm", "open_clip"):
        _, again = through(house, found)
        assert same(found, again) and again.mean == (0.5, 0.25, 0.5)


def test_patches_of_any_shape():
    kind = "Siglip2ImageProcessor"
    found = Preprocessing("decode|patchify(14, 1024, 'bicubic')", *HALF)
    assert through("transformers", found, kind=kind)[1] == found
    for other in ("decode|resize(224)", "decode|patchify((16, 8), 256)",
                  "decode|patchify(16, 256, antialias=False)"):  # fmt: skip
        with pytest.raises(InputError, match="NaFlex cannot say .* it has patchify"):
            through("transformers", Preprocessing(other, *HALF), kind=kind)


def test_the_class_is_one_that_crops():
    """In transformers 4, ViT's and SigLIP's classes leave crops and the shorter side out."""
    kinds = {
        ("decode|resize(224)", "ViTImageProcessor"): "ViTImageProcessor",
        ("decode|resize_small(256, 'bicubic')", "ViTImageProcessor"): "BitImageProcessor",
        ("decode|resize(256)|central_crop(224)", "SiglipImageProcessor"): "BitImageProcessor",
        ("decode|resize_small(256, 'bicubic')", "CLIPImageProcessor"): "CLIPImageProcessor",
    }
    for (transform, kind), wanted in kinds.items():
        about, _ = through("transformers", Preprocessing(transform, *HALF), kind=kind)
        assert about["image_processor_type"] == wanted


def test_timms_share_of_the_side_keeps_every_pixel():
    """It cuts size / crop_pct off to whole pixels; four digits of the quotient lose many."""
    lost = 0
    for size in (28, 32, 64, 224, 240, 256, 288, 299, 336, 384, 448, 512, 518):
        for enlarged in range(size, size * 4 // 3 + 1):
            found = Preprocessing(EDGE.format(enlarged, "bicubic", size), *HALF)
            about, again = through("timm", found)
            assert same(found, again)
            assert len(str(about["crop_pct"])) <= 8
            lost += not same(found, shortest(size, HALF, round(size / enlarged, 4)))
    assert lost > 100
    found = shortest(224, HALF, 0.9)
    assert through("timm", found)[0]["crop_pct"] == 0.9


def test_dinov2_has_images_of_another_size_than_its_table():
    """As published: a table of 518 pixels, images of 224 out of 256. timm resamples the table."""
    loaded = parity.loaded("L17-dinov2")
    found = Preprocessing(EDGE.format(20, "bicubic", 12), *IMAGENET)
    about, again = through("timm", found, loaded.sections.model)
    assert about["input_size"] == [3, 12, 12] and about["crop_pct"] == 0.6
    assert same(found, again)


def test_what_timm_had_said_is_kept_where_it_is_the_same():
    loaded = parity.loaded("L15-vit")
    kept = loaded.form["pretrained_cfg"]
    assert to_timm(loaded.sections.model, loaded.preprocessing, kept) is kept
    other = shortest(16, IMAGENET, 0.8)
    about = to_timm(loaded.sections.model, other, kept)
    assert same(other, from_timm(about)) and about["crop_pct"] == 0.8
    assert {k for k in kept if kept[k] != about[k]} == {"mean", "std", "crop_pct"}


def test_images_of_another_size_resample_the_positions_in_timm(tmp_path):
    loaded = parity.loaded("L15-vit")
    said = shortest(12, HALF, 0.75)
    file = weights.save(tmp_path, loaded.params, loaded.sections, "timm", said)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["model_args"]["img_size"] == 16 and about["model_args"]["dynamic_img_size"]
    assert same(said, weights.load(file).preprocessing)
    weights.save(tmp_path, loaded.params, loaded.sections, "timm", shortest(16, HALF))
    about = json.loads((tmp_path / "config.json").read_text())
    assert "dynamic_img_size" not in about["model_args"]


@pytest.mark.parametrize(
    ("transform", "other", "equal"),
    [
        ("decode|resize(32)", "decode|to_size((32, 32), method='bilinear')|central_crop(32)", True),
        ("decode|resize(32)", "resize(32)", True),
        ("decode|resize_small(40, 'bicubic', rule='torchvision')|central_crop(32)",
         "decode|resize_small(40, 'bicubic')|central_crop(32, rule='torchvision')", True),
        ("decode|resize_small(32)", "decode|resize_small(32, antialias=False)", True),
        ("decode|resize(32)", "decode|resize(32, antialias=False)", False),
        ("decode|resize(32)", "decode|resize(32, 'bicubic')", False),
        ("decode|resize_small(32)", "decode|resize_small(32)|central_crop(32)", False),
        ("decode|resize(32)", "decode|resize(33)|central_crop(32)", False),
    ],
)  # fmt: skip
def test_which_transforms_are_the_same(transform, other, equal):
    assert same(Preprocessing(transform, *HALF), Preprocessing(other, *HALF)) == equal
    assert not same(Preprocessing(transform, *HALF), Preprocessing(transform, *IMAGENET))
    assert not same(Preprocessing(transform, *HALF), None)


def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for shape in ((37, 51, 3), (64, 30, 3))]


def assert_same_pixels(theirs, found, image):
    """Up to the grey level: torchvision and Pillow round alike, transformers after a division."""
    ours = transforms.parse(found.transform)(image, np.random.default_rng(0))
    ours = (ours / 255 - np.array(found.mean)) / np.array(found.std)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


LIVE = [
    ("transformers", "decode|resize(24, 'bicubic')"),
    ("transformers", "decode|resize((24, 20))|central_crop(16)"),
    ("transformers", "decode|resize_small(24, 'lanczos', rule='torchvision')|central_crop(16)"),
    ("transformers", "decode|central_crop(16)"),
    ("transformers", "decode"),
    ("timm", "decode|resize(24)"),
    ("timm", "decode|resize((28, 24), 'lanczos')|central_crop((21, 18), rule='torchvision')"),
    ("timm", "decode|resize_small(26, 'bicubic', rule='torchvision')"
     "|central_crop(23, rule='torchvision')"),
    ("open_clip", "decode|resize(24)"),
    ("open_clip", "decode|resize_small(24, 'bilinear', rule='torchvision')"
     "|central_crop(24, rule='torchvision')"),
]  # fmt: skip


@pytest.mark.extra
@pytest.mark.parametrize(("house", "transform"), LIVE)
def test_the_libraries_make_the_same_pixels_of_what_is_written(house, transform):
    pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    found = Preprocessing(transform, *CLIP)
    about, _ = through(house, found, MODEL.model_copy(update={"image_size": 24}))
    for image in images():
        assert_same_pixels(prepared(house, about, image), found, image)


@pytest.mark.extra
def test_timm_takes_images_of_another_size_than_its_table(tmp_path):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    timm = pytest.importorskip("timm")
    loaded = parity.loaded("L15-vit")
    weights.save(tmp_path, loaded.params, loaded.sections, "timm", shortest(12, HALF, 0.75))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    cfg = timm.data.resolve_data_config(model=model)
    assert cfg["input_size"] == (3, 12, 12) and cfg["crop_pct"] == 0.75
    x = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(parity.recorder().torch_images(x)).numpy()
    ours, _ = loaded.sections.build("cpu").apply({"params": loaded.params}, x)
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


def prepared(house, about, image):
    """(H, W, 3) of the library's own preprocessing."""
    from PIL import Image

    if house == "transformers":
        hf = pytest.importorskip("transformers")
        kind = about["image_processor_type"]
        made = getattr(hf, f"{kind}Pil", None) or getattr(hf, kind)  # Pillow's resize, as ours
        made = made(**{k: x for k, x in about.items() if k != "image_processor_type"})
        return np.asarray(made(Image.fromarray(image))["pixel_values"][0]).transpose(1, 2, 0)
    if house == "timm":
        timm = pytest.importorskip("timm")
        cfg = timm.data.resolve_data_config(pretrained_cfg=about)
        made = timm.data.create_transform(**cfg)
    else:
        open_clip = pytest.importorskip("open_clip")
        cfg = open_clip.transform.PreprocessCfg(**about)
        made = open_clip.transform.image_transform_v2(cfg, is_train=False)
    return made(Image.fromarray(image)).numpy().transpose(1, 2, 0)
