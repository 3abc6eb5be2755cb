"""Single augmentations: each against Pillow, live, and against timm and torchvision, recorded."""

import hashlib
import pathlib
import runpy

import numpy as np
import pytest
from pictures import Fixed, photo
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageFilter, ImageOps

from big_vit_lite import checks, config
from big_vit_lite.data import transforms
from big_vit_lite.data.transforms import colour, maps
from big_vit_lite.data.transforms.colour_ops import ColorJitter
from big_vit_lite.data.transforms.erasing import RandomErasing
from big_vit_lite.data.transforms.op import ImageFault

ROOT = pathlib.Path(__file__).parents[2]
with np.load(ROOT / "tests/data/goldens/augmentations.npz") as file:
    GOLDEN = dict(file)

NOISE = np.random.default_rng(1).integers(0, 256, (48, 41, 3), dtype=np.uint8)
IMAGES = {
    "photo": photo(48, 40, 3),
    "odd": photo(31, 45, 3, 2),
    "grey": photo(31, 45, 1, 3),
    "dim": photo(48, 40, 3, 9) // 3 + 60,
    "flat": np.full((48, 40, 3), 77, np.uint8),
    "noise": NOISE,
    "tiny": NOISE[:1, :1],
    "tiny grey": NOISE[:1, :1, :1],
    "line": NOISE[:2, :7],
}
each_image = pytest.mark.parametrize("name", IMAGES)


def apply(text, image, seed=0):
    return transforms.parse(text)(image, np.random.default_rng(seed))


def pillow(image):
    return Pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def same(ours, theirs):
    """Equal pixel for pixel."""
    return np.array_equal(ours.reshape(np.asarray(theirs).shape), np.asarray(theirs))


def recorded(kind):
    """The recorded image, with its channel axis."""
    image = GOLDEN[f"image/{kind}"]
    return image if image.ndim == 3 else image[..., None]


# One by one against Pillow


@each_image
def test_value_operations_equal_pillows(name):
    image = IMAGES[name]
    theirs = pillow(image)
    for text, wanted in {
        "autocontrast": ImageOps.autocontrast(theirs),
        "equalize": ImageOps.equalize(theirs),
        "invert": ImageOps.invert(theirs),
        "solarize": ImageOps.solarize(theirs),
        **{f"posterize({b})": ImageOps.posterize(theirs, b) for b in range(1, 9)},
        **{f"solarize({t})": ImageOps.solarize(theirs, t) for t in (0, 1, 127.5, 256)},
    }.items():
        assert same(apply(text, image), wanted), text
    assert not apply("posterize(0)", image).any()
    grey = np.asarray(theirs.convert("L"))
    assert (apply("grayscale", image) == grey[..., None]).all()


@each_image
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 0.91, 1.0, 1.36, 1.9])
def test_enhancements_equal_pillows(name, factor):
    image = IMAGES[name]
    for kind in ("color", "contrast", "brightness", "sharpness"):
        enhance = getattr(ImageEnhance, kind.capitalize())(pillow(image)).enhance
        assert same(getattr(colour, kind)(image, factor), enhance(factor)), kind
    enhanced = ImageEnhance.Sharpness(pillow(image)).enhance(factor)
    assert same(apply(f"sharpness({factor})", image), enhanced)


@each_image
def test_blur_equals_pillows(name):
    image = IMAGES[name]
    for sigma in (0.1, 0.7, 1.3, 2.0, 5.0):
        wanted = pillow(image).filter(ImageFilter.GaussianBlur(sigma))
        assert same(apply(f"gaussian_blur(sigma=({sigma}, {sigma}))", image), wanted)


def test_sigma_is_a_standard_deviation_in_pixels():
    line = np.zeros((31, 31, 1), np.uint8)
    line[:, 15] = 255
    blurred = colour.gaussian_blur(line, 2.0)[15, :, 0].astype(float)
    spread = np.sqrt((blurred * (np.arange(31) - 15) ** 2).sum() / blurred.sum())
    assert abs(spread - 2.0) < 0.1


@each_image
@pytest.mark.parametrize("method", maps.METHODS)
def test_maps_equal_pillows(name, method):
    image = IMAGES[name]
    grey = image.shape[-1] == 1
    fill = (124, 116, 104)
    options = {"fillcolor": 117 if grey else fill}  # 117: the fill's luma
    resample = Pillow.Resampling[method.upper()]
    for ours, matrix in (
        (maps.shear_x(image, 0.27, fill, method), (1, 0.27, 0, 0, 1, 0)),
        (maps.shear_y(image, -0.3, fill, method), (1, 0, 0, -0.3, 1, 0)),
        (maps.translate_x(image, 7.25, fill, method), (1, 0, 7.25, 0, 1, 0)),
        (maps.translate_y(image, -9, fill, method), (1, 0, 0, 0, 1, -9)),
    ):
        source = pillow(image)
        wanted = source.transform(source.size, Pillow.AFFINE, matrix, resample, **options)
        assert same(ours, wanted)
    for degrees in (27, -8.5, 90):
        wanted = pillow(image).rotate(degrees, resample, **options)
        assert same(maps.rotate(image, degrees, fill, method), wanted)


def test_solarize_add_has_no_counterpart_in_pillow():
    values = NOISE.astype(int)
    expected = np.where(values < 128, np.minimum(values + 99, 255), values)
    assert np.array_equal(colour.solarize_add(NOISE, 99), expected)


# One by one against timm and torchvision, as recorded

VALUES = {
    "Solarize": (0, 77, 256),
    "SolarizeAdd": (99, 33),
    "PosterizeIncreasing": (1, 3, 4),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (0.1, 0.55, 1.36, 1.9)),
}
MAPS = {
    "Rotate": (maps.rotate, (-27.0, 8.5, 90.0), None),
    "ShearX": (maps.shear_x, (-0.27, 0.1), None),
    "ShearY": (maps.shear_y, (-0.27, 0.1), None),
    "TranslateXRel": (maps.translate_x, (-0.4, 0.13), 1),  # shares of the width
    "TranslateYRel": (maps.translate_y, (-0.4, 0.13), 0),
}
NAMES = {"SolarizeAdd": "solarize_add", "PosterizeIncreasing": "posterize"}


@pytest.mark.parametrize("kind", ["rgb", "grey"])
def test_operations_equal_timms(kind):
    image = recorded(kind)
    for name, values in VALUES.items():
        operation = getattr(colour, NAMES.get(name, name.lower()))
        for value, wanted in zip(values, GOLDEN[f"{kind}/{name}"], strict=True):
            assert same(operation(image, value), wanted), (name, value)
    for name in ("AutoContrast", "Equalize", "Invert"):
        assert same(getattr(colour, name.lower())(image), GOLDEN[f"{kind}/{name}"][0]), name
    fill = (124, 116, 104) if kind == "rgb" else 124
    for name, (operation, values, side) in MAPS.items():
        for method in maps.METHODS:
            for value, wanted in zip(values, GOLDEN[f"{kind}/{name}/{method}"], strict=True):
                scaled = value if side is None else value * image.shape[side]
                assert same(operation(image, scaled, fill, method), wanted), (name, value)


def test_maps_differ_by_fill_direction_and_centre():
    """What the golden test must tell apart does differ on its image."""
    image = recorded("rgb")
    wanted = GOLDEN["rgb/Rotate/bicubic"][0]
    assert not same(maps.rotate(image, 27.0, (124, 116, 104), "bicubic"), wanted)
    assert not same(maps.rotate(image, -27.0, 128, "bicubic"), wanted)
    assert not same(maps.rotate(image, -27.0, (124, 116, 104), "bilinear"), wanted)
    off = maps.rotate(np.pad(image, ((1, 0), (1, 0), (0, 0))), -27.0, (124, 116, 104), "bicubic")
    assert not same(off[1:, 1:], wanted)


def test_hue_equals_torchvisions():
    image = recorded("rgb")
    for turn, wanted in zip(GOLDEN["hue/turns"].tolist(), GOLDEN["hue/images"], strict=True):
        assert same(colour.hue(image, turn), wanted), turn
    assert not same(colour.hue(image, -0.1), GOLDEN["hue/images"][5])
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    assert colour.hue(red, 0.33)[0, 0].argmax() == 1  # towards green
    assert same(colour.hue(IMAGES["grey"], 0.3), IMAGES["grey"])


# Random ones: how often, in which range, in which order


@pytest.mark.parametrize(
    "text",
    ["grayscale(0.3)", "autocontrast(0.3)", "equalize(0.3)", "invert(0.3)", "posterize(2, p=0.3)",
     "solarize(60, p=0.3)", "sharpness(3, p=0.3)", "gaussian_blur(sigma=(2, 3), p=0.3)",
     "three_augment(0.3)", "color_jitter(0.9, p=0.3)", "random_erasing(0.3)",
     "vertical_flip(0.3)"],
)  # fmt: skip
def test_p_is_the_share_of_images_that_change(text):
    image = IMAGES["dim"]
    changed = sum(not np.array_equal(apply(text, image, seed), image) for seed in range(300))
    assert 60 < changed < 122  # 90, and 4 standard deviations of it


def test_jitter_draws_as_torchvision():
    jitter = ColorJitter(0.4, 1.5, 0.2, 0.1)
    rng = np.random.default_rng(0)
    draws = [jitter.draw(rng) for _ in range(2400)]
    orders = [tuple(name for name, _ in changes) for changes in draws]
    assert len(set(orders)) == 24
    assert all(60 < orders.count(order) < 145 for order in set(orders))
    names = ("brightness", "contrast", "color", "hue")
    for name, (low, high) in zip(names, GOLDEN["jitter/limits"], strict=True):
        values = np.array([dict(changes)[name] for changes in draws])
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_jitter_is_its_operations_one_after_the_other():
    jitter, image = ColorJitter(0.4, 0.4, 0.2, 0.1), IMAGES["odd"]
    rng = np.random.default_rng(5)
    rng.random()  # whether
    wanted = pillow(image)
    for name, value in jitter.draw(rng):
        if name == "hue":
            wanted = Pillow.fromarray(colour.hue(np.asarray(wanted), value))
        else:
            wanted = getattr(ImageEnhance, name.capitalize())(wanted).enhance(value)
    assert same(jitter(image, np.random.default_rng(5)), wanted)
    assert [name for name, _ in ColorJitter(0, 0.3, 0).draw(rng)] == ["contrast"]


def test_three_augment_takes_one_of_three_each_equally_often():
    image = IMAGES["photo"]
    grey = np.asarray(pillow(image).convert("L").convert("RGB"))
    solarized = np.asarray(ImageOps.solarize(pillow(image), 128))
    kinds = {"grey": 0, "solarized": 0, "blurred": 0}
    for seed in range(600):
        done = apply("three_augment", image, seed)
        if same(done, grey):
            kinds["grey"] += 1
        elif same(done, solarized):
            kinds["solarized"] += 1
        else:
            kinds["blurred"] += 1
    assert all(150 < count < 250 for count in kinds.values())
    sequence = iter([0.0, 0.9, 0.5])  # taken, blur, the middle of 0.1 to 2
    draws = Fixed(0)
    draws.random = lambda: next(sequence)
    wanted = pillow(image).filter(ImageFilter.GaussianBlur(0.1 + 0.5 * 1.9))
    assert same(transforms.parse("three_augment")(image, draws), wanted)


def test_translate_moves_by_whole_pixels_up_to_its_share():
    image = np.arange(1, 201, dtype=np.uint8).reshape(10, 20, 1)
    moves = set()
    for seed in range(600):
        moved = apply("translate(0.1, fill=255)", image, seed)[..., 0]
        row, column = np.argwhere(moved == image[5, 10, 0])[0]
        moves.add((int(row) - 5, int(column) - 10))
        assert (moved == 255).sum() == 200 - (10 - abs(row - 5)) * (20 - abs(column - 10))
    assert moves == {(down, right) for down in (-1, 0, 1) for right in (-2, -1, 0, 1, 2)}


def test_vertical_flip_mirrors_top_to_bottom():
    image = photo(7, 9, 2)
    assert np.array_equal(apply("vertical_flip(1.0)", image), image[::-1])


class Replayed:
    """A generator whose uniform draws are a recorded list."""

    def __init__(self, numbers):
        self._numbers = iter(numbers.tolist())

    def random(self):
        return next(self._numbers)


def test_erasing_takes_the_boxes_that_timm_takes():
    taken = 0
    for draws, wanted, count in zip(
        GOLDEN["erasing/draws"], GOLDEN["erasing/masks"], GOLDEN["erasing/counts"], strict=True
    ):
        boxes = RandomErasing(0.75, count=int(count)).draw((40, 56), Replayed(draws))
        mask = np.zeros((40, 56), bool)
        for top, left, height, width in boxes:
            mask[top : top + height, left : left + width] = True
        assert np.array_equal(mask, wanted)
        taken += mask.any()
    assert 30 < taken < 60


def test_what_erasing_leaves():
    image = np.full((64, 64, 3), 7, np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def box(text, image=image, seed=1):
        erased = apply(text, image, seed)
        return erased[(erased != 7).any(-1)].astype(float)

    assert set(map(tuple, box("random_erasing(1, 'const')"))) == {(124, 116, 104)}
    assert len(set(map(tuple, box("random_erasing(1, 'rand')")))) == 1
    colours = [box("random_erasing(1, 'rand')", seed=seed)[0] for seed in range(800)]
    pixels = np.concatenate([box("random_erasing(1)", seed=seed) for seed in range(8)])
    normal = np.random.default_rng(0).normal(255 * mean, 255 * std, (200_000, 3))
    wanted = np.clip(np.rint(normal), 0, 255)
    for values, tolerance in ((np.array(colours), 8), (pixels, 2)):
        np.testing.assert_allclose(values.mean(0), wanted.mean(0), atol=tolerance)
        np.testing.assert_allclose(values.std(0), wanted.std(0), atol=tolerance)
    grey = box("random_erasing(1, 'const')", image[..., :1])
    assert set(grey.ravel()) == {round(255 * (0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406))}
    assert np.array_equal(apply("random_erasing(1)", image[:1, :1]), image[:1, :1])


# Refusals


@pytest.mark.parametrize(
    "name",
    ["grayscale", "autocontrast", "equalize", "invert", "posterize(3)", "solarize", "sharpness(2)",
     "gaussian_blur", "color_jitter", "three_augment", "random_erasing", "randaugment(2, 9)",
     "randaugment_timm", "randaugment_paper", "autoaugment", "trivialaugment", "augmix"],
)  # fmt: skip
def test_other_channel_counts_are_refused(name):
    for channels in (2, 4):
        with pytest.raises(ImageFault, match=rf"^{name.split('(')[0]} takes 1 or 3 channels, not"):
            apply(name, photo(channels=channels))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("grayscale(1.5)", "grayscale: p is a number between 0 and 1, not 1.5; write grayscale(p="),
        ("posterize(9)", "posterize: bits is at most 8, not 9"),
        ("solarize(300)", "solarize: threshold is a number between 0 and 256, not 300"),
        ("gaussian_blur(2.0)", "gaussian_blur: sigma is a pair 0 < low <= high <= 100, not 2.0"),
        ("color_jitter(hue=0.6)", "color_jitter: hue is a number between 0 and 0.5, not 0.6"),
        ("color_jitter(-1)", "color_jitter: brightness is a number"),
        ("random_erasing(mode='noise')", "mode is one of const, rand, pixel, not 'noise'"),
        ("random_erasing(area=(0.5, 1.5))", "area is a pair 0 < low <= high <= 1"),
        ("random_erasing(mean=0.5)", "mean is three numbers between 0 and 1, not 0.5"),
        ("translate(2)", "translate: share is a number between 0 and 1, not 2"),
        ("randaugment(101, 9)", "randaugment: n is at most 100, not 101"),
        ("randaugment_timm(2, 11)", "magnitude is a number between 0 and 10, not 11"),
        ("randaugment_timm(increasing=1)", "increasing is True or False, not 1"),
        ("randaugment_timm(fill=(1, 2))", "fill is a grey level from 0 to 255 or three of them"),
        ("randaugment_timm(method='area')", "one of nearest, bilinear, bicubic, random, not 'area"),
        ("randaugment_paper(2, 31)", "magnitude is a number between 0 and 30, not 31"),
        ("autoaugment(fill=256)", "fill is a grey level from 0 to 255 or three of them, not 256"),
        ("trivialaugment(method='cubic')", "method is one of nearest, bilinear, bicubic"),
        ("augmix(severity=0)", "augmix: severity is a number between 0.1 and 10, not 0"),
        ("augmix(alpha=0)", "augmix: alpha is a number"),
        ("augmix(all_ops=1)", "all_ops is True or False, not 1"),
    ],
)
def test_faults_name_the_argument(text, fault):
    faults = transforms.check(text)
    assert len(faults) == 1
    assert fault in faults[0]


# Recipes


RECIPES = {
    "DeiT": "decode|random_resized_crop(224, method='bicubic', rule='torchvision')|flip"
    "|randaugment_timm(2, 9, 0.5, increasing=True)|random_erasing(0.25, 'pixel')",
    "DeiT III, simple random crop": "decode"
    "|resize_small(224, method='bicubic', rule='torchvision')"
    "|random_crop(224, pad=4, mode='reflect')|flip|three_augment|color_jitter(0.3, 0.3, 0.3)",
    "DINO, global views": "decode|random_resized_crop(224, scale=(0.4, 1.0), method='bicubic',"
    " rule='torchvision')|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)|grayscale(0.2)"
    "|gaussian_blur(p=0.1)|solarize(128, p=0.2)",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_published_recipes_can_be_written(recipe):
    transform = transforms.parse(RECIPES[recipe])
    assert transform.output_size() == (224, 224)
    for shape in ((300, 260), (224, 500)):
        results = [transform(photo(*shape), np.random.default_rng(s)) for s in range(4)]
        assert {r.shape for r in results} == {(224, 224, 3)}
        assert len({r.tobytes() for r in results}) == 4


def test_the_whole_of_deits_recipe_is_a_sound_config():
    """Table 9 of Touvron et al. 2021, as far as data and targets go."""
    train = {"source": "synthetic", "transform": RECIPES["DeiT"], "repeats": 3}
    task = {"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "cutmix_share": 0.5}
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    values = {
        "epochs": 300,
        "model": {"variant": "S/16"},
        "task": task,
        "data": {"batch_size": 1024, "train": train, **normal},
    }
    run = config.load(values, {}, checks.STATIC)
    erasing = transforms.parse(run.data.train.transform).ops[-1]
    assert (erasing.mean, erasing.std) == (run.data.mean, run.data.std)


@pytest.mark.parametrize(
    "text",
    ["gaussian_blur((100, 100))", "sharpness(100)", "color_jitter(100, 100, 100, 0.5)",
     "random_erasing(1, area=(1e-06, 1), aspect=(1e-06, 1e6), count=100)", "translate(1)",
     "randaugment(100, 30, translate=1000000, cutout=1000000)", "randaugment_timm(9, 10, 1000000)",
     "augmix(10, 9, 9, alpha=0.001, all_ops=True)", "augmix(0.1, 1, 1, alpha=1000000)",
     "randaugment_paper(9, 1000000, levels=1000000)"],
)  # fmt: skip
def test_extreme_arguments_still_give_an_image(text):
    for shape in ((1, 1, 3), (1, 300, 1), (300, 1, 3), (31, 45, 3)):
        image = photo(*shape)
        for seed in range(4):
            done = apply(text, image, seed)
            assert (done.shape, done.dtype) == (shape, np.uint8)


RECORDER = ROOT / "tools/record_augmentation_goldens.py"


def test_goldens_come_from_the_recording_script():
    wanted = hashlib.sha256(RECORDER.read_bytes()).hexdigest()
    assert str(GOLDEN["origin/script_sha256"]) == wanted


@pytest.mark.extra
def test_goldens_are_what_timm_and_torchvision_give_today():
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    for name, wanted in runpy.run_path(str(RECORDER))["record"]().items():
        assert np.array_equal(GOLDEN[name], wanted), name
