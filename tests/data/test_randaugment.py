"""Random policies: values at fixed magnitudes as published, frequencies, and what a run does."""

import collections
import json
import pathlib

import numpy as np
import pytest
from pictures import Fixed, photo
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps

from big_vit_lite.data.transforms import augmix, autoaugment, parse, randaugment
from big_vit_lite.data.transforms.augmix import AugMix
from big_vit_lite.data.transforms.autoaugment import AutoAugment, TrivialAugment
from big_vit_lite.data.transforms.policy import STEPS, Step, take
from big_vit_lite.data.transforms.randaugment import (
    RandAugment,
    RandAugmentPaper,
    RandAugmentTimm,
    timm_value,
)

with np.load(pathlib.Path(__file__).parent / "goldens" / "augmentations.npz") as file:
    GOLDEN = dict(file)

SIZE = (224, 300)
PLUS, MINUS = Fixed(0.0), Fixed(0.9)  # what makes `sign` 1 and -1

# timm's names to ours; "Increasing" apart.
OURS = {
    "AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert",
    "Rotate": "rotate", "Posterize": "posterize", "PosterizeOriginal": "posterize",
    "Solarize": "solarize", "SolarizeAdd": "solarize_add", "Color": "color",
    "Contrast": "contrast", "Brightness": "brightness", "Sharpness": "sharpness",
    "ShearX": "shear_x", "ShearY": "shear_y", "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y", "TranslateX": "translate_x", "TranslateY": "translate_y",
    "Identity": "identity",
}  # fmt: skip


def ours(name):
    return OURS[name.replace("Increasing", "")]


def counted(op, n, size=SIZE):
    """Steps of `n` draws by name."""
    rng = np.random.default_rng(0)
    found = collections.defaultdict(list)
    for _ in range(n):
        for step in op.draw(size, rng):
            found[step.name].append(step)
    return found


def equally_often(found, names, total):
    """Every name is drawn total / len(names) times, to within five standard deviations."""
    mean = total / len(names)
    assert set(found) == set(names)
    assert all(abs(len(found[name]) - mean) < 5 * np.sqrt(mean) for name in names)


# RandAugment of EfficientNet's code


@pytest.mark.parametrize(
    ("magnitude", "draws", "factor", "whole", "signed"),
    [
        (10, PLUS, 1.9, (4, 256, 110), (30, 0.3, 100)),
        (5, MINUS, 1.0, (2, 128, 55), (-15, -0.15, -50)),
        (0, PLUS, 0.1, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_magnitudes_of_efficientnet(magnitude, draws, factor, whole, signed):
    op = RandAugment(1, magnitude)
    values = {
        name: rule(op, magnitude / 10, SIZE, draws)
        for name, rule in randaugment.EFFICIENTNET.items()
    }
    row, column, half = values.pop("cutout")
    assert (row, column) == ((0, 0) if draws is PLUS else (201, 270))
    assert half == 4 * magnitude
    turn, slope, move = signed
    assert values == {
        "autocontrast": None, "equalize": None, "invert": None, "posterize": whole[0],
        "solarize": whole[1], "solarize_add": whole[2],
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), pytest.approx(factor)),
        "rotate": pytest.approx(turn), "shear_x": pytest.approx(slope),
        "shear_y": pytest.approx(slope), "translate_x": move, "translate_y": move,
    }  # fmt: skip


def test_efficientnets_are_drawn_equally_often_n_times_an_image():
    found = counted(RandAugment(2, 9), 1600)
    equally_often(found, randaugment.EFFICIENTNET_NAMES, 3200)
    assert len(randaugment.EFFICIENTNET_NAMES) == 16
    turns = [step.value for step in found["rotate"]]
    assert set(turns) == {-27.0, 27.0}
    assert 0.3 < turns.count(27.0) / len(turns) < 0.7


# RandAugment of timm


@pytest.mark.parametrize("increasing", [True, False])
def test_timms_operations_and_values(increasing):
    layers, ops = json.loads(str(GOLDEN["policy/rand" if increasing else "policy/plain"]))
    op = RandAugmentTimm(increasing=increasing)
    assert [ours(name) for name, *_ in ops] == list(randaugment.TIMM_NAMES)
    assert layers == op.n
    assert all(rest == [op.p, op.magnitude, op.std, list(op.fill)] for _, *rest in ops)
    sides = {"TranslateXRel": SIZE[1], "TranslateYRel": SIZE[0]}
    for name, *_ in ops:
        if f"value/{name}" not in GOLDEN:
            assert timm_value(op, ours(name), 0.9, SIZE, PLUS) is None
            continue
        for draws, row in zip((PLUS, MINUS), GOLDEN[f"value/{name}"], strict=True):
            for level, wanted in zip(GOLDEN["value/levels"].tolist(), row, strict=True):
                value = timm_value(op, ours(name), level / 10, SIZE, draws)
                assert value == pytest.approx(wanted * sides.get(name, 1), abs=1e-12), (name, level)


def test_timms_draws():
    found = counted(RandAugmentTimm(), 3000)
    equally_often(found, randaugment.TIMM_NAMES, 3000)  # of 6000, half are applied
    levels = np.array([abs(step.value) / 3 for step in found["rotate"]])
    assert abs(levels.mean() - 9) < 0.15
    assert abs(levels.std() - 0.5) < 0.1
    assert levels.max() <= 10
    assert {step.method for steps in found.values() for step in steps} == {"bicubic"}
    wild = np.array([abs(s.value) / 3 for s in counted(RandAugmentTimm(std=40), 3000)["rotate"]])
    assert 0.3 < (wild == 0).mean() < 0.5  # cut at 0 and at 10, not wrapped or mirrored
    assert 0.3 < (wild == 10).mean() < 0.6
    fixed = {step.value for step in counted(RandAugmentTimm(std=0), 500)["color"]}
    assert sorted(fixed) == pytest.approx([0.19, 1.81])
    both = counted(RandAugmentTimm(method="random", p=1.0), 300)
    shares = collections.Counter(step.method for step in both["shear_x"] + both["rotate"])
    assert set(shares) == {"bilinear", "bicubic"}
    assert 0.3 < shares["bilinear"] / shares.total() < 0.7


# RandAugment of the paper, as torchvision reads it


def test_papers_operations_and_values():
    assert {ours(name) for name in GOLDEN["torchvision/names"]} == set(randaugment.PAPER_NAMES)
    assert len(randaugment.PAPER_NAMES) == 14
    shift = {"Color": 1, "Contrast": 1, "Brightness": 1, "Sharpness": 1}
    for name in GOLDEN["torchvision/names"].tolist():
        if f"torchvision/{name}" not in GOLDEN:
            assert randaugment.PAPER[ours(name)](0.3, SIZE, PLUS) is None
            continue
        signed = GOLDEN[f"torchvision/{name}/signed"]
        whole = int if name.startswith("Translate") else float  # torchvision cuts it when applied
        for k, magnitude in enumerate(GOLDEN[f"torchvision/{name}"].tolist()):
            for draws, sign in ((PLUS, 1), (MINUS, -1 if signed else 1)):
                value = randaugment.PAPER[ours(name)](k / 30, SIZE, draws)
                wanted = whole(sign * magnitude) + shift.get(name, 0)
                assert value == pytest.approx(wanted, abs=1e-5), (name, k)


def test_papers_draws():
    found = counted(RandAugmentPaper(3, 9), 1000)
    equally_often(found, randaugment.PAPER_NAMES, 3000)
    assert {abs(step.value) for step in found["rotate"]} == {9.0}
    tenths = counted(RandAugmentPaper(3, 9, levels=10), 100)
    assert {abs(step.value) for step in tenths["rotate"]} == {27.0}


# AutoAugment


def test_autoaugment_is_the_papers_policy():
    policy = json.loads(str(GOLDEN["policy/original"]))
    assert len(policy) == len(autoaugment.IMAGENET) == 25
    for pair, theirs in zip(autoaugment.IMAGENET, policy, strict=True):
        for (name, p, magnitude), (their_name, their_p, their_value) in zip(
            pair, theirs, strict=True
        ):
            assert (name, p) == (ours(their_name), their_p)
            value = autoaugment.FOUND[name](magnitude / 10, PLUS)
            assert ([] if value is None else [pytest.approx(value)]) == their_value


def test_autoaugment_draws_sub_policies_and_applies_by_their_probabilities():
    found = counted(AutoAugment(), 5000)
    wanted = collections.Counter()
    for pair in autoaugment.IMAGENET:
        for name, p, _ in pair:
            wanted[name] += 200 * p
    assert set(found) == set(wanted)
    assert all(
        abs(len(found[name]) - mean) < 5 * np.sqrt(mean) + 1 for name, mean in wanted.items()
    )
    assert sorted({abs(s.value) for s in found["rotate"]}) == pytest.approx([9, 24, 27])
    assert {s.value for s in found["rotate"] if s.value < 0}


# TrivialAugment


def wide(name, k):
    """Magnitudes of the authors' code, wide space, 31 strengths, without the sign."""
    return {
        "rotate": int(k * 135 / 30), "solarize": 256 - int(k * 256 / 30),
        "posterize": 8 - int(k * (8 - 2) / 30), "shear_x": k * 0.99 / 30, "shear_y": k * 0.99 / 30,
        "translate_x": int(k * 32 / 30), "translate_y": int(k * 32 / 30),
    }.get(name, 0.01 + k * (2.0 - 0.01) / 30)  # fmt: skip


def test_trivialaugment_draws_one_operation_at_any_of_31_strengths():
    found = counted(TrivialAugment(), 14 * 400)
    equally_often(found, autoaugment.WIDE_NAMES, 14 * 400)
    assert len(autoaugment.WIDE_NAMES) == 14
    for name, steps in found.items():
        values = [step.value for step in steps]
        if name in ("identity", "autocontrast", "equalize"):
            assert set(values) == {None}
            continue
        signs = (1, -1) if name.startswith(("rotate", "shear", "translate")) else (1,)
        levels = {sign * wide(name, k) for k in range(31) for sign in signs}
        assert {round(v, 9) for v in values} <= {round(v, 9) for v in levels}
        assert len(set(values)) > 0.9 * len(levels)
        assert max(values) == pytest.approx(max(levels), rel=0.1)


# What a run of steps does to an image: the same as Pillow, step for step


def pillow_step(image, step, fill):
    """One step by Pillow and NumPy alone."""
    name, value, method = step
    resample = Pillow.Resampling[method.upper()]
    matrices = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value),
    }
    if name in matrices:
        return image.transform(image.size, Pillow.AFFINE, matrices[name], resample, fillcolor=fill)
    if name == "rotate":
        return image.rotate(value, resample, fillcolor=fill)
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(value)
    if name in ("autocontrast", "equalize", "invert"):
        return getattr(ImageOps, name)(image)
    if name == "solarize":
        return ImageOps.solarize(image, value)
    pixels = np.asarray(image).astype(int)
    if name == "posterize":
        pixels = pixels // 2 ** (8 - value) * 2 ** (8 - value)
    elif name == "solarize_add":
        pixels = np.where(pixels < 128, np.minimum(pixels + value, 255), pixels)
    elif name == "cutout":
        row, column, half = value
        top, left = max(row - half, 0), max(column - half, 0)
        pixels[top : row + half, left : column + half] = fill
    return Pillow.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    "text",
    ["randaugment(3, 9)", "randaugment(2, 4, translate=12)", "randaugment_timm(3)",
     "randaugment_timm(3, p=1.0, increasing=False, fill=77, method='bilinear')",
     "randaugment_paper(3, 20)", "autoaugment", "trivialaugment(fill=3, method='bilinear')"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(48, 41, 3), (31, 45, 1), (1, 1, 3)])
def test_a_policy_takes_the_steps_it_draws(text, shape):
    (op,) = parse(text).ops
    image = photo(*shape)
    fill = op.fill if isinstance(op.fill, tuple) else (op.fill,) * 3
    if shape[-1] == 1:
        fill = round(0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2])
    for seed in range(25):
        done = Pillow.fromarray(image.squeeze() if shape[-1] == 1 else image)
        for step in op.draw(shape[:2], np.random.default_rng(seed)):
            done = pillow_step(done, step, fill)
        ours = op(image, np.random.default_rng(seed))
        assert np.array_equal(ours.reshape(np.asarray(done).shape), np.asarray(done))


def test_every_step_exists_and_none_writes_into_its_input():
    tables = (randaugment.EFFICIENTNET, randaugment.TIMM, randaugment.PAPER, autoaugment.FOUND,
              autoaugment.WIDE, augmix.LEVELS)  # fmt: skip
    assert {name for table in tables for name in table} == set(STEPS)
    image = photo(20, 24)
    before = image.copy()
    image.flags.writeable = False
    for name in STEPS:
        value = {"cutout": (3, 4, 5), "posterize": 3, "solarize_add": 20}.get(name, 0.5)
        take(Step(name, value), image, 128)
    assert np.array_equal(image, before)


# AugMix


def test_augmix_draws():
    op, rng = AugMix(severity=3, width=4, alpha=0.5), np.random.default_rng(0)
    draws = [op.draw(SIZE, rng) for _ in range(900)]
    shares, weights, chains = zip(*draws, strict=True)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(0.125, abs=0.015)  # of Beta(a, a): 1 / (8 a + 4)
    np.testing.assert_allclose(np.sum(weights, 1), 1)
    np.testing.assert_allclose(np.mean(weights, 0), 0.25, atol=0.05)
    # Of Dirichlet(a, ...): (1/w)(1 - 1/w) / (w a + 1)
    np.testing.assert_allclose(np.var(weights, 0), 0.1875 / 3, atol=0.015)
    depths = collections.Counter(len(chain) for each in chains for chain in each)
    assert set(depths) == {1, 2, 3}
    assert all(1000 < count < 1400 for count in depths.values())
    steps = [step for each in chains for chain in each for step in chain]
    found = collections.Counter(step.name for step in steps)
    assert set(found) == set(list(augmix.LEVELS)[:9])
    assert all(abs(count / len(steps) - 1 / 9) < 0.02 for count in found.values())
    slopes = np.abs([step.value for step in steps if step.name == "shear_x"])
    assert 0.003 <= slopes.min() < 0.006 and 0.085 < slopes.max() <= 0.09  # U(0.1, 3) of 10
    assert abs(slopes.mean() - 0.0465) < 0.005
    moves = {abs(step.value) for step in steps if step.name == "translate_x"}
    assert moves <= set(range(31)) and max(moves) > 26  # a third of 300 pixels, by 0.3
    assert {len(c) for c in AugMix(depth=2, width=5).draw(SIZE, rng)[2]} == {2}
    every = {s.name for _ in range(99) for c in AugMix(all_ops=True).draw(SIZE, rng)[2] for s in c}
    assert every == set(augmix.LEVELS)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmix_is_its_formula(channels):
    op, image = AugMix(), photo(31, 45, channels)
    for seed in range(12):
        share, weights, chains = op.draw((31, 45), np.random.default_rng(seed))
        wanted = (1 - share) * image
        for weight, chain in zip(weights, chains, strict=True):
            done = Pillow.fromarray(image.squeeze() if channels == 1 else image)
            for step in chain:
                done = pillow_step(done, step, 0 if channels == 1 else (0, 0, 0))
            wanted = wanted + share * weight * np.asarray(done).reshape(image.shape)
        mixed = op(image, np.random.default_rng(seed))
        assert np.abs(mixed - wanted).max() <= 0.5 + 1e-3  # rounded once
