"""RandAugment: every operation against Pillow at fixed magnitudes, ranges as published."""

import numpy as np
import pytest
from pictures import Fixed, photo
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps

from big_vit_lite.data.transforms import colour, randaugment
from big_vit_lite.data.transforms.op import ImageFault
from big_vit_lite.data.transforms.randaugment import FILL, NAMES, OPERATIONS, RandAugment

PHOTOS = [photo(48, 40, 3, seed) for seed in range(3)] + [
    photo(48, 40, 3, 9) // 3 + 60,  # low contrast
    np.full((48, 40, 3), 77, np.uint8),  # flat
    np.random.default_rng(1).integers(0, 256, (48, 40, 3), dtype=np.uint8),
]


def both(image):
    return image, Pillow.fromarray(image)


@pytest.mark.parametrize("image", PHOTOS)
def test_value_operations_equal_pillows(image):
    pixels, pillow = both(image)
    for ours, theirs in (
        (colour.autocontrast(pixels), ImageOps.autocontrast(pillow)),
        (colour.equalize(pixels), ImageOps.equalize(pillow)),
        (colour.invert(pixels), ImageOps.invert(pillow)),
        *((colour.posterize(pixels, b), ImageOps.posterize(pillow, b)) for b in range(1, 9)),
        *((colour.solarize(pixels, t), ImageOps.solarize(pillow, t)) for t in (0, 1, 128, 256)),
    ):
        assert np.array_equal(ours, np.asarray(theirs))
    grey = Pillow.fromarray(pixels[..., 0])
    one = pixels[..., :1]
    assert np.array_equal(colour.equalize(one)[..., 0], np.asarray(ImageOps.equalize(grey)))
    assert np.array_equal(colour.autocontrast(one)[..., 0], np.asarray(ImageOps.autocontrast(grey)))


@pytest.mark.parametrize("image", PHOTOS)
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 0.91, 1.0, 1.36, 1.9])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancements_equal_pillows(image, factor, name):
    pixels, pillow = both(image)
    expected = np.asarray(getattr(ImageEnhance, name.capitalize())(pillow).enhance(factor))
    assert np.array_equal(getattr(colour, name)(pixels, factor), expected)
    grey = np.asarray(
        getattr(ImageEnhance, name.capitalize())(Pillow.fromarray(pixels[..., 0])).enhance(factor)
    )
    assert np.array_equal(getattr(colour, name)(pixels[..., :1], factor)[..., 0], grey)


def test_operations_without_a_counterpart_in_pillow():
    image = PHOTOS[0]
    values = image.astype(int)
    expected = np.where(values < 128, np.minimum(values + 99, 255), values)
    assert np.array_equal(colour.solarize_add(image, 99), expected)
    assert not colour.posterize(image, 0).any()


def read_at(image, x, y):
    """The nearest pixel to (x, y), measured from the outer corner, or FILL outside."""
    rows, columns = np.floor(y).astype(int), np.floor(x).astype(int)
    height, width = image.shape[:2]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = image[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return np.where(inside[..., None], found, FILL)


@pytest.mark.parametrize("channels", [1, 3])
def test_geometric_operations_read_the_nearest_pixel(channels):
    image = photo(48, 40, channels)
    y, x = np.indices((48, 40)) + 0.5
    cos, sin = np.cos(np.radians(27)), np.sin(np.radians(27))
    for ours, source in (
        (randaugment.shear_x(image, 0.27), (x + 0.27 * y, y)),
        (randaugment.shear_y(image, -0.3), (x, y - 0.3 * x)),
        (randaugment.translate_x(image, 7), (x + 7, y)),
        (randaugment.translate_y(image, -9), (x, y - 9)),
        (
            randaugment.rotate(image, 27),
            (20 + cos * (x - 20) - sin * (y - 24), 24 + sin * (x - 20) + cos * (y - 24)),
        ),
    ):
        different = (ours != read_at(image, *source)).any(-1)
        assert different.mean() < 0.002  # ties and 16-bit steps of Pillow's walk along a row
    turned = Pillow.fromarray(image.squeeze()).rotate(
        27, fillcolor=FILL if channels == 1 else (FILL,) * 3
    )
    ours = randaugment.rotate(image, 27).squeeze()
    assert (ours != np.asarray(turned)).mean() < 0.002


def test_magnitudes_are_the_published_ones(monkeypatch):
    """What each operation is called with at magnitude 10 and 5 (both signs drawn)."""
    called = {}
    image = PHOTOS[0]
    for name in ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add",
                 "color", "contrast", "brightness", "sharpness"):  # fmt: skip
        monkeypatch.setattr(colour, name, lambda im, *a, n=name: called.setdefault(n, a) and im)
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        monkeypatch.setattr(
            randaugment, name, lambda im, *a, n=name: called.setdefault(n, a) and im
        )
    monkeypatch.setattr(randaugment, "cut", lambda im, r, c, half, f: called.update(cut=(half, f)))

    def calls(magnitude, sign):
        called.clear()
        for name in NAMES:
            OPERATIONS[name](RandAugment(1, magnitude), image, magnitude / 10, Fixed(sign))
        return dict(called)

    assert len(NAMES) == 16
    full, same = (pytest.approx(1.9),), (pytest.approx(1.0),)
    assert calls(10, 0.0) == {
        "autocontrast": (), "equalize": (), "invert": (), "posterize": (4,), "solarize": (256,),
        "solarize_add": (110,), "color": full, "contrast": full, "brightness": full,
        "sharpness": full, "rotate": (30.0,), "shear_x": (0.3,), "shear_y": (0.3,),
        "translate_x": (100.0,), "translate_y": (100.0,), "cut": ((40, 40), 128),
    }  # fmt: skip
    assert calls(5, 0.9) == {
        "autocontrast": (), "equalize": (), "invert": (), "posterize": (2,), "solarize": (128,),
        "solarize_add": (55,), "color": same, "contrast": same, "brightness": same,
        "sharpness": same, "rotate": (-15.0,), "shear_x": (-0.15,), "shear_y": (-0.15,),
        "translate_x": (-50.0,), "translate_y": (-50.0,), "cut": ((20, 20), 128),
    }  # fmt: skip


def test_every_operation_is_drawn_equally_often_n_times_an_image(monkeypatch):
    counts = dict.fromkeys(NAMES, 0)

    def count(name):
        def operation(op, image, strength, rng):
            counts[name] += 1
            return image

        return operation

    for name in NAMES:
        monkeypatch.setitem(OPERATIONS, name, count(name))
    rng = np.random.default_rng(0)
    for _ in range(1600):
        RandAugment(2, 9)(PHOTOS[0], rng)
    assert sum(counts.values()) == 3200
    assert all(140 < count < 260 for count in counts.values())


def test_randaugment_refuses_other_channel_counts():
    with pytest.raises(ImageFault, match="randaugment takes 1 or 3 channels, not 4"):
        RandAugment(2, 10)(photo(channels=4), np.random.default_rng(0))
