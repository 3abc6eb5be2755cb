"""Decoding a part or a smaller copy of a JPEG: equal pixels, equal draws, stated differences."""

import io
import itertools
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pictures import photo
from PIL import Image as Pillow

from big_vit_lite.data import transforms
from big_vit_lite.data.transforms import cropped
from big_vit_lite.data.transforms.decode import Decode, read
from big_vit_lite.data.transforms.op import ImageFault

installed = pytest.mark.skipif(
    cropped._library() is None, reason="nvidia-nvimgcodec is not installed"
)
CROP = "random_resized_crop(32, scale=(0.2, 0.9))"


def jpeg(image, **options):
    file = io.BytesIO()
    Pillow.fromarray(image.squeeze()).save(file, "JPEG", **options)
    return file.getvalue()


def by_steps(text, data, seed):
    """What the operations give one by one, without a shortcut."""
    rng = np.random.default_rng(seed)
    for op in transforms.parse(text).ops:
        data = op(data, rng)
    return data


def whole(text, data, seed):
    return transforms.parse(text)(data, np.random.default_rng(seed))


KINDS = {
    "420": {},
    "422": {"subsampling": 1},
    "444": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "rgb": {"keep_rgb": True},
}


@installed
@pytest.mark.parametrize("kind", [*KINDS, "grey"])
def test_a_decoded_box_is_that_of_the_whole(kind):
    channels = 1 if kind == "grey" else 3
    data = jpeg(photo(203, 181, channels), **KINDS.get(kind, {}))
    pixels = read(data)
    edges = (0, 1, 7, 8, 15, 16, 17, 31, 32)
    for top, left, more in itertools.product(edges, edges, (0, 1, 16, 37)):
        height, width = cropped.LEAST_SIDE + more, cropped.LEAST_SIDE + (more * 5) % 48
        box = cropped.decode_box(data, (top, left, height, width))
        if kind == "progressive":
            assert box is None
        else:
            assert np.array_equal(box, pixels[top : top + height, left : left + width])


@installed
@pytest.mark.parametrize("text", [f"decode|{CROP}|flip", f"decode(1)|{CROP}"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_cropped_decoding_changes_no_pixel(text, options, monkeypatch):
    asked = []
    decode_box = cropped.decode_box

    def spy(data, box):
        asked.append(decode_box(data, box))
        return asked[-1]

    monkeypatch.setattr(cropped, "decode_box", spy)
    for seed in range(12):
        data = jpeg(photo(150 + 9 * seed, 220, seed=seed), **options)
        assert np.array_equal(whole(text, data, seed), by_steps(text, data, seed))
    assert len(asked) == 12
    assert any(box is not None for box in asked) == (not options.get("progressive"))


@installed
def test_damaged_files_read_the_same():
    rng, text = np.random.default_rng(0), f"decode|{CROP}"
    whole_file = jpeg(photo(160, 200))
    results = {"picture": 0, "fault": 0}

    def outcome(function, data, seed):
        try:
            return function(text, data, seed)
        except ImageFault as fault:
            return str(fault)

    for seed in range(200):
        data = bytearray(whole_file)
        at = int(rng.integers(2, len(data) - 2))
        if seed % 2:
            data[at] ^= int(rng.integers(1, 256))
        else:
            data = data[:at] + b"\xff\xd9"
        fast, plain = (outcome(f, bytes(data), seed) for f in (whole, by_steps))
        assert type(fast) is type(plain) and np.array_equal(fast, plain)
        results["fault" if isinstance(fast, str) else "picture"] += 1
    assert min(results.values()) >= 5


def test_without_the_library_there_is_no_shortcut_and_the_same_pixels():
    text = f"decode|{CROP}"
    code = f"""
import sys
sys.modules["nvidia.nvimgcodec"] = None  # as if it were not installed
import numpy as np
from big_vit_lite.data import transforms
from big_vit_lite.data.transforms import cropped
transform = transforms.parse({text!r})
assert cropped.join(transform.ops) is None
sys.stdout.buffer.write(transform(sys.stdin.buffer.read(), np.random.default_rng(3)).tobytes())
"""
    data = jpeg(photo(200, 240))
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout == whole(text, data, 3).tobytes()


@installed
def test_loading_the_library_is_silent_and_leaves_the_environment():
    code = """
import os
from big_vit_lite.data.transforms import cropped
before = os.environ.get("NVIMGCODEC_EXTENSIONS_PATH")
assert cropped._library() is not None
assert os.environ.get("NVIMGCODEC_EXTENSIONS_PATH") == before
assert cropped.decode_box(b"\\xff\\xd8 no image", (0, 0, 99, 99)) is None
maps = open("/proc/self/maps").read()
assert "libjpeg_turbo_ext" in maps and "libnvjpeg_ext" not in maps and "libcuda.so" not in maps
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_input_goes_the_ordinary_way():
    text = f"decode|{CROP}"
    png = io.BytesIO()
    Pillow.fromarray(photo(90, 90)).save(png, "PNG")
    cmyk = io.BytesIO()
    Pillow.fromarray(photo(90, 90)).convert("CMYK").save(cmyk, "JPEG")
    for data in (png.getvalue(), cmyk.getvalue(), photo(90, 90)):
        assert np.array_equal(whole(text, data, 1), by_steps(text, data, 1))
    with pytest.raises(ImageFault, match="truncated"):
        whole(text, jpeg(photo(90, 90))[:-300], 1)


# Approximate


def scene(height, width, seed):
    """Somewhat like a photograph: smooth shades, hard edges, thin lines, noise."""
    rng = np.random.default_rng(seed)
    image = photo(height, width, seed=seed)
    for _ in range(30):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.circle(image, (x, y), int(rng.integers(5, 60)), colour, int(rng.choice([-1, 1, 3])))
    return image


BOUNDS = {  # method and antialias: mean and largest difference of grey levels
    "": (5.0, 150),
    ", method='bicubic'": (6.0, 150),
    ", antialias=True": (2.0, 40),
    ", method='area'": (3.0, 80),
}


@pytest.mark.parametrize("arguments", BOUNDS)
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_approximate_decoding_keeps_place_and_nearly_the_pixels(arguments, scale, monkeypatch):
    crop = f"random_resized_crop(64, scale=(0.5, 0.9){arguments})"
    means, most, scales = [], 0, []
    reduced = cropped._reduced
    monkeypatch.setattr(cropped, "_reduced", lambda d, s: scales.append(s) or reduced(d, s))
    for seed in range(4):
        data = jpeg(scene(110 * scale + seed, 113 * scale, seed), quality=92)
        exact = by_steps(f"decode|{crop}", data, seed).astype(int)
        difference = np.abs(whole(f"decode(approximate=True)|{crop}", data, seed) - exact)
        means.append(difference.mean())
        most = max(most, difference.max())
    assert scales.count(scale) >= 2  # some boxes are too small for it
    assert 0 < np.mean(means) <= BOUNDS[arguments][0] and most <= BOUNDS[arguments][1]


@pytest.mark.parametrize(("op", "mean"), [("resize((30, 50))", 2.5), ("resize_small(31)", 4.0)])
def test_approximate_decoding_before_a_change_of_size(op, mean):
    data = jpeg(scene(300, 421, 0), quality=92)
    exact = by_steps(f"decode|{op}", data, 0)
    close = whole(f"decode(approximate=True)|{op}", data, 0)
    assert close.shape == exact.shape
    assert 0 < np.abs(close.astype(int) - exact).mean() < mean


def test_approximate_decoding_of_small_boxes_is_exact():
    for seed in range(6):
        data = jpeg(photo(120, 120, seed=seed))
        for op in ("random_resized_crop(64)", "resize(64)", "resize_small(64)"):
            approximate = whole(f"decode(approximate=True)|{op}", data, seed)
            assert np.array_equal(approximate, by_steps(f"decode|{op}", data, seed))


def test_a_shift_of_less_than_a_pixel_is_kept():
    """A ramp of grey shows where each target pixel came from, to a fraction of a pixel."""
    ramp = np.repeat(np.arange(64, 192, 0.25).astype(np.uint8)[None, :, None], 256, 0)
    data = jpeg(np.repeat(ramp, 3, -1), quality=100, subsampling=0)
    for seed in range(8):
        text = "random_resized_crop(48, scale=(0.3, 0.8))"
        exact = by_steps(f"decode|{text}", data, seed).astype(float)
        close = whole(f"decode(approximate=True)|{text}", data, seed)
        assert abs((close - exact).mean()) < 0.15  # half a pixel of the smaller copy would be 0.25


def test_approximately_decoded_images_are_not_kept_between_epochs():
    assert transforms.parse("decode|resize(8)").decodes
    approximate = transforms.parse("decode(approximate=True)|resize(8)")
    assert not approximate.decodes
    assert approximate.specs()["image"] == ((8, 8, 3), np.uint8)
    assert pickle.loads(pickle.dumps(approximate)) == approximate


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("decode(approximate=1)|resize(8)", "approximate is True or False, not 1"),
        ("decode(exif=True, approximate=True)", "exif and approximate do not go together"),
        ("decode(approximate=True)", "comes before random_resized_crop, resize_small or resize"),
        ("decode(approximate=True)|flip|resize(8)", "comes before random_resized_crop"),
    ],
)
def test_faults_of_approximate(text, fault):
    faults = transforms.check(text)
    assert len(faults) == 1 and fault in faults[0]


def test_exif_orientation_is_not_cropped_away():
    assert cropped.join((Decode(exif=True), transforms.parse(f"decode|{CROP}").ops[1])) is None
