"""Published preprocessing, bit for bit: against Pillow by the published rules, and recorded."""

import importlib.util
import io
import math
import pathlib

import numpy as np
import pytest
from PIL import Image as Pillow

from big_vit_lite.data import transforms
from big_vit_lite.data.transforms import preprocessing
from big_vit_lite.data.transforms.crops import RandomResizedCrop

HERE = pathlib.Path(__file__).parent
RECORDED = dict(np.load(HERE / "goldens" / "preprocessing.npz"))
NAMES = [key.partition("/")[2] for key in RECORDED if key.startswith("image/")]


def apply(text, image):
    return transforms.parse(text)(image, np.random.default_rng(0))


# Pillow by the published rules


def published(image, size, enlarged=None, method=Pillow.Resampling.BICUBIC):
    """torchvision's Resize(enlarged) and CenterCrop(size) of an RGB image."""
    enlarged = enlarged or size
    width, height = image.size
    if width <= height:
        scaled = enlarged, int(enlarged * height / width)
    else:
        scaled = int(enlarged * width / height), enlarged
    image = image.resize(scaled, method)
    left, top = int(round((scaled[0] - size) / 2.0)), int(round((scaled[1] - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def squashed(image, size, method=Pillow.Resampling.BICUBIC):
    return image.resize((size, size), method)


def any_image(rng):
    """A random image of a random size and mode, as Pillow holds it and as a file."""
    mode = rng.choice(["RGB", "L", "RGBA", "P"])
    height, width = rng.integers(20, 420, 2)
    coarse = rng.integers(0, 256, (9, 9, 4), dtype=np.uint8)
    image = Pillow.fromarray(coarse, "RGBA").resize((int(width), int(height)))
    image = image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return image, file.getvalue()


@pytest.mark.parametrize("seed", range(150))
def test_evaluation_is_pillows_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    image, data = any_image(rng)
    size = int(rng.choice([32, 224, 336]))
    image = image.convert("RGB")
    rules = {
        preprocessing.shortest(size): published(image, size),
        preprocessing.squash(size): squashed(image, size),
        preprocessing.squash(size, "bilinear"): squashed(image, size, Pillow.Resampling.BILINEAR),
        preprocessing.shortest(size, 0.9): published(image, size, math.floor(size / 0.9)),
        preprocessing.shortest(size, 0.875): published(image, size, math.floor(size / 0.875)),
    }
    for text in rules if size == 32 else list(rules)[seed % 5 :: 5]:
        assert np.array_equal(apply(text, data), np.asarray(rules[text])), text


def test_the_four_published_pipelines_are_one_readable_line_each():
    assert preprocessing.shortest(224) == (
        "decode|resize_small(224, 'bicubic', rule='torchvision')"
        "|central_crop(224, rule='torchvision')"
    )
    assert preprocessing.shortest(224, 0.9) == (  # timm: floor(224 / 0.9) = 248
        "decode|resize_small(248, 'bicubic', rule='torchvision')"
        "|central_crop(224, rule='torchvision')"
    )
    assert "resize_small(256, 'bilinear'," in preprocessing.shortest(224, 0.875, "bilinear")
    assert preprocessing.squash(224) == "decode|resize(224, 'bicubic')"


def test_every_recipe_of_the_docstring_is_sound():
    lines = [line.split() for line in preprocessing.__doc__.splitlines()]
    texts = {line[0]: " ".join(line[1:]) for line in lines if line[1:] and "decode|" in line[1]}
    assert texts.keys() == {"AugReg", "CLIP", "DeiT", "MAE"}
    assert all(transforms.output_size(text) == (224, 224) for text in texts.values())


@pytest.mark.parametrize(
    ("shape", "size", "tensorflow", "torchvision"),
    [
        ((375, 500), 256, (256, 341), (256, 341)),
        ((500, 333), 224, (336, 224), (336, 224)),
        ((500, 331), 224, (338, 224), (338, 224)),
        ((333, 500), 225, (225, 338), (225, 337)),  # 337.8
        ((3, 5), 2, (2, 3), (2, 3)),
        ((5, 2), 1, (2, 1), (2, 1)),  # 2.5
    ],
)
def test_the_longer_side_is_rounded_or_cut_off(shape, size, tensorflow, torchvision):
    image = np.zeros((*shape, 1), np.uint8)
    assert apply(f"resize_small({size})", image).shape[:2] == tensorflow
    assert apply(f"resize_small({size}, rule='torchvision')", image).shape[:2] == torchvision


def test_half_of_an_odd_margin_is_cut_off_or_rounded_to_even():
    for margin, above, even in ((0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 1, 2), (5, 2, 2), (7, 3, 4)):
        image = np.arange(4 + margin, dtype=np.uint8).reshape(-1, 1, 1).repeat(4, axis=1)
        assert apply("central_crop(4)", image)[0, 0] == above
        assert apply("central_crop(4, rule='torchvision')", image)[0, 0] == even


# Recorded


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_equals_torchvisions_timms_and_transformers(name):
    data = RECORDED[f"image/{name}"].tobytes()
    cut_off = "decode|resize_small(24, 'bicubic', rule='torchvision')"
    for text, pipeline in (
        (preprocessing.shortest(24), "clip"),
        (preprocessing.shortest(24, 0.9), "timm 0.9"),
        (preprocessing.shortest(24, 0.875), "timm 0.875"),
        (preprocessing.shortest(24), "timm 1.0"),
        (f"{cut_off}|central_crop(24)", "transformers clip"),
        (preprocessing.squash(24), "transformers siglip"),
    ):
        assert np.array_equal(apply(text, data), RECORDED[f"{pipeline}/{name}"]), pipeline


def test_only_palette_and_alpha_depend_on_when_an_image_becomes_rgb():
    differ = [
        n for n in NAMES if not np.array_equal(RECORDED[f"clip/{n}"], RECORDED[f"clip late/{n}"])
    ]
    assert sorted(differ) == ["alpha", "palette"]
    clip, theirs = RECORDED["clip/small"], RECORDED["transformers clip/small"]
    assert np.array_equal(clip[:, :-1], theirs[:, 1:])  # an odd margin: one column further right


@pytest.mark.extra
def test_the_recording_is_what_the_libraries_give_now():
    pytest.importorskip("torchvision")
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    path = HERE.parent.parent / "tools" / "record_preprocessing.py"
    spec = importlib.util.spec_from_file_location("record_preprocessing", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for key, value in script.record().items():
        if not key.startswith(("origin/", "image/")):
            assert np.array_equal(value, RECORDED[key]), key


# torchvision's random crop


def boxes(height, width, draws, **arguments):
    crop, rng = RandomResizedCrop(24, rule="torchvision", **arguments), np.random.default_rng(0)
    return np.array([crop.box(height, width, rng) for _ in range(draws)]).T


def test_torchvisions_boxes_follow_their_distribution():
    """Area uniform and log-ratio uniform where every box fits, which small areas always do."""
    top, left, tall, wide = boxes(3000, 4000, 20_000, scale=(0.1, 0.5))
    for found, low, high in (
        (tall * wide / (3000 * 4000), 0.1, 0.5),
        (np.log(wide / tall), math.log(3 / 4), math.log(4 / 3)),
    ):
        quantiles = np.quantile((found - low) / (high - low), np.linspace(0, 1, 21))
        assert np.abs(quantiles - np.linspace(0, 1, 21)).max() < 0.015
    area, ratio = tall * wide, np.log(wide / tall)
    assert abs(np.corrcoef(area, ratio)[0, 1]) < 0.02
    for start, room in ((top, 3000 - tall), (left, 4000 - wide)):
        share = np.quantile(start / room, np.linspace(0, 1, 21))
        assert np.abs(share - np.linspace(0, 1, 21)).max() < 0.015


def test_torchvisions_boxes_that_do_not_fit_are_drawn_again():
    """In a square image ratio r fits with areas up to 1 / r, so that large areas are rarer."""
    _, _, tall, wide = boxes(1000, 1000, 20_000, scale=(0.08, 1.0))
    area, rng = tall * wide / 1e6, np.random.default_rng(1)
    share, ratio = (
        rng.uniform(0.08, 1, 400_000),
        rng.uniform(math.log(0.75), math.log(4 / 3), 400_000),
    )
    expected = share[share * np.exp(np.abs(ratio)) <= 1]
    at = np.linspace(0.02, 0.98, 25)
    assert np.abs(np.quantile(area, at) - np.quantile(expected, at)).max() < 0.015
    assert not ((tall == 1000) & (wide == 1000)).mean() > 0.01


def test_torchvisions_fallback_is_the_largest_central_box():
    for key, box in RECORDED.items():
        if key.startswith("fallback/"):
            height, width = map(int, key.removeprefix("fallback/").split("x"))
            crop = RandomResizedCrop(8, (0.9, 1.0), rule="torchvision")
            assert crop.box(height, width, np.random.default_rng(0)) == tuple(box)
    inside = RandomResizedCrop(8, (0.99, 1.0), (0.5, 2.0), rule="torchvision")
    found = {inside.box(3, 5, np.random.default_rng(seed)) for seed in range(200)}
    assert (0, 0, 3, 5) in found  # of a fitting ratio: the whole image


def test_torchvisions_crop_is_resized_with_antialias():
    image = np.asarray(any_image(np.random.default_rng(3))[0].convert("RGB"))
    text = "random_resized_crop(24, (0.2, 1), method='bicubic', rule='torchvision')"
    crop = transforms.parse(text).ops[0]
    top, left, tall, wide = crop.box(*image.shape[:2], np.random.default_rng(0))
    box = Pillow.fromarray(image).crop((left, top, left + wide, top + tall))
    assert np.array_equal(apply(text, image), np.asarray(squashed(box, 24)))


def test_what_is_left_out_of_a_random_crop_is_its_rules():
    assert RandomResizedCrop(8) == RandomResizedCrop(
        8, (0.05, 1.0), (0.75, 1.33), "bilinear", False, "tensorflow"
    )
    assert RandomResizedCrop(8, rule="torchvision") == RandomResizedCrop(
        8, (0.08, 1.0), (3 / 4, 4 / 3), "bilinear", True, "torchvision"
    )
    assert transforms.check("random_resized_crop(8, rule='keras')") == [
        "random_resized_crop: rule is one of tensorflow, torchvision, not 'keras'; write "
        "random_resized_crop(size, scale=None, ratio=None, method='bilinear', antialias=None, "
        "rule='tensorflow')"
    ]
