"""Transforms: the grammar and its refusals, decoding, and what each geometric operation does."""

import io
import pickle

import cv2
import numpy as np
import pytest
from pictures import Fixed, photo
from PIL import Image as Pillow

from big_vit_lite.config import InputError
from big_vit_lite.data import transforms
from big_vit_lite.data.transforms.crops import RandomResizedCrop
from big_vit_lite.data.transforms.op import ImageFault
from big_vit_lite.data.transforms.parse import OPS


def apply(text, image, seed=0):
    return transforms.parse(text)(image, np.random.default_rng(seed))


def saved(image, **options):
    file = io.BytesIO()
    Pillow.fromarray(image.squeeze()).save(file, **options)
    return file.getvalue()


# The grammar


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", None),
        ("decode", None),
        ("decode|random_resized_crop(224)|flip|randaugment(2,10)", (224, 224)),
        ("decode|resize_small(256)|central_crop(224)", (224, 224)),
        ("decode|resize_small(256)", None),
        ("decode|to_size((30, 50))|resize_small(15)", (15, 25)),
        ("decode()|resize(size=64, method='bicubic')|pad_crop(4)|cutout((8, 6))", (64, 64)),
        ("random_crop((8, 9))\n|shift(2)|rotate(10)|affine(degrees=5, shear=3.5)", (8, 9)),
    ],
)
def test_sound_texts_and_their_sizes(text, size):
    assert transforms.check(text) == []
    assert transforms.output_size(text) == size
    assert pickle.loads(pickle.dumps(transforms.parse(text))) == transforms.parse(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("decod", "unknown operation 'decod'; did you mean decode?"),
        ("xyzzy", "unknown operation 'xyzzy'; there are decode, resize, to_size"),
        ("resize", "resize: missing a required argument: 'size'; write resize(size, method="),
        ("resize(0)", "resize: size is a side in pixels or a pair (height, width), not 0; write"),
        ("resize((3, 4, 5))", "not (3, 4, 5)"),
        ("resize(True)", "not True"),
        ("resize(8, metod='area')", "unexpected keyword argument 'metod'"),
        ("resize(8, method='cubic')", "method is one of nearest, bilinear, bicubic, lanczos, area"),
        ("resize(8, antialias=1)", "antialias is True or False, not 1"),
        ("resize(8)(9)", "'resize(8)(9)' is not an operation, such as flip or resize(224)"),
        ("flip(0.5, 1)", "flip: too many positional arguments; write flip(p=0.5)"),
        ("flip(p=2)", "flip: p is a number between 0 and 1, not 2; write flip(p=0.5)"),
        ("resize(1000000000)", "size is at most 8192 pixels a side, not 1000000000"),
        ("resize((8, 8193))", "size is at most 8192 pixels a side, not (8, 8193)"),
        ("resize_small(8193)", "size is at most 8192, not 8193"),
        ("pad_crop(1000001)", "pad is at most 1000000, not 1000001"),
        ("affine(translate=1e999)", "translate is a number between 0 and 1e+06, not inf"),
        (
            "resize(-0x" + "f" * 5000 + ")",
            "pixels or a pair (height, width), not a number too long",
        ),
        (
            "resize('" + "x" * 99 + "')",
            "not 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
        ),
        ("pad_crop(4.0)", "pad_crop: pad is a whole number from 0 on, not 4.0"),
        ("random_resized_crop(8, scale=(0.5, 2))", "scale is a pair 0 < low <= high <= 1"),
        ("random_resized_crop(8, ratio=(2, 1))", "ratio is a pair 0 < low <= high, not (2, 1)"),
        ("decode(4)", "decode: channels is 3 (RGB) or 1 (grey), not 4"),
        ("flip|decode", "decode comes first and once"),
        ("cutout(1)", "size is at least 2 pixels each way, not 1"),
        ("decode|", "not readable; write operations such as decode|resize(224)|flip"),
        ("decode||flip", "not readable"),
        ("flip(p=__import__('os').getpid())", "is not a plain value"),
        ("flip(*[0.5])", "* and ** are not understood"),
        ("os.system('true')", "\"os.system('true')\" is not an operation"),
        ("(lambda: flip)()", "is not an operation"),
        ("flip if 1 else decode", "is not an operation"),
    ],
)
def test_faults_name_the_operation_its_signature_and_the_argument(text, fault):
    faults = transforms.check(text)
    assert len(faults) == 1
    assert fault in faults[0]
    with pytest.raises(InputError) as error:
        transforms.parse(text, "data.train.transform")
    assert str(error.value) == f"data.train.transform {text!r}: {faults[0]}"


def test_all_faults_are_reported_at_once():
    assert len(transforms.check("decod|resize(0)|flp|flip(9)|decode")) == 4


@pytest.mark.filterwarnings("error")
def test_deep_or_odd_texts_are_refused_not_crashed_on():
    for text in (
        "(" * 500,
        "\0",
        "-" * 10_000 + "1",
        "é|ü(1)",
        "1if 2",
        "flip(0if 1)",
        "f" * 10**5,
    ):
        faults = transforms.check(text)
        assert faults
        assert "\n" not in "".join(faults)
    transforms.check("flip|" * 5000 + "flip")  # sound or too deep for the parser, not a crash


# Every operation: deterministic, leaves its input alone, keeps uint8, any channel count

EXAMPLES = {
    "decode": "decode",
    "resize": "resize((24, 20))",
    "to_size": "to_size(24, antialias=False)",
    "resize_small": "resize_small(24)",
    "central_crop": "central_crop(17)",
    "random_crop": "random_crop((17, 20))",
    "pad_crop": "pad_crop(4)",
    "random_resized_crop": "random_resized_crop(24)",
    "flip": "flip",
    "shift": "shift(3)",
    "rotate": "rotate(30)",
    "affine": "affine(degrees=20, translate=3, scale=0.2, shear=10)",
    "cutout": "cutout(10, fill=3)",
    "vertical_flip": "vertical_flip",
    "translate": "translate(0.2, fill=9)",
    "random_erasing": "random_erasing(0.5)",
    "grayscale": "grayscale(0.5)",
    "autocontrast": "autocontrast(0.5)",
    "equalize": "equalize(0.5)",
    "invert": "invert(0.5)",
    "posterize": "posterize(3, p=0.5)",
    "solarize": "solarize(p=0.5)",
    "sharpness": "sharpness(1.5, p=0.5)",
    "gaussian_blur": "gaussian_blur(sigma=(0.5, 2))",
    "color_jitter": "color_jitter(0.4, 0.4, 0.4, 0.1)",
    "three_augment": "three_augment",
    "randaugment": "randaugment(3, 9)",
    "randaugment_timm": "randaugment_timm(3)",
    "randaugment_paper": "randaugment_paper(3, 15)",
    "autoaugment": "autoaugment",
    "trivialaugment": "trivialaugment",
    "augmix": "augmix",
}
COLOURED = {"decode"} | {name for name in OPS if OPS[name].__module__.split(".")[-1] in (
    "augmix", "autoaugment", "colour_ops", "erasing", "randaugment"
)}  # fmt: skip
"""Operations for grey and RGB images only."""


def test_every_operation_has_an_example():
    # They make other arrays than one image, and have tests of their own.
    several = {"features", "patchify", "views"}
    assert set(OPS) - several == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_operation_is_a_function_of_image_and_generator(name):
    channels = (1, 3) if name in COLOURED else (1, 2, 3, 4, 7)
    random = name not in ("decode", "resize", "to_size", "resize_small", "central_crop")
    text = EXAMPLES[name]
    for c in channels:
        image = photo(channels=c) // 2 + 20  # low contrast: autocontrast has something to do
        before = image.copy()
        image.flags.writeable = False
        results = [apply(text if name != "decode" else f"decode({c})", image, s) for s in range(12)]
        assert np.array_equal(image, before)
        assert np.array_equal(apply(text, image, 3), results[3]) or name == "decode"
        changes = random and not (name == "grayscale" and c == 1)
        assert len({r.tobytes() for r in results}) > 1 if changes else True
        wanted = transforms.parse(text).ops[0].output_size(image.shape[:2])
        assert {r.shape for r in results} == {(*wanted, c)}
        assert {r.dtype for r in results} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - COLOURED))
def test_channels_are_treated_alike(name):
    """Seven channels at once give what each gives alone: nothing mixes them or fills them apart."""
    image = photo(channels=7)
    whole = apply(EXAMPLES[name], image, 5)
    planes = [apply(EXAMPLES[name], image[..., c : c + 1], 5) for c in range(7)]
    assert np.abs(whole.astype(int) - np.concatenate(planes, -1)).max() <= 1


# Geometry


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(20, 28), (17, 40), (80, 90)])
def test_antialiased_resize_is_pillows_bit_for_bit(method, size):
    image = photo()
    expected = Pillow.fromarray(image).resize(
        size[::-1], getattr(Pillow.Resampling, method.upper())
    )
    assert np.array_equal(apply(f"resize({size}, method={method!r})", image), np.asarray(expected))


def test_resize_without_antialias_reads_half_pixel_centres():
    image = photo(40, 60)
    small = apply("resize((20, 30), antialias=False)", image).astype(int)
    corners = image[::2, ::2], image[1::2, ::2], image[::2, 1::2], image[1::2, 1::2]
    assert np.abs(small - sum(c.astype(float) for c in corners) / 4).max() <= 1
    third = apply("resize((10, 15), antialias=False)", image).astype(int)
    middle = [image[1 + i :: 4, 1 + j :: 4].astype(float) for i in (0, 1) for j in (0, 1)]
    assert np.abs(third - sum(middle) / 4).max() <= 1  # 12 of 16 source pixels are not read
    area = apply("resize((10, 15), method='area')", image).astype(int)
    blocks = image.reshape(10, 4, 15, 4, 3).mean((1, 3))
    assert np.abs(area - blocks).max() <= 1


@pytest.mark.parametrize(
    ("shape", "result"),
    [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((64, 100), (256, 400))],
)
def test_resize_small_sets_the_shorter_side(shape, result):
    assert apply("resize_small(256)", photo(*shape)).shape == (*result, 3)


def test_central_crop_and_crops_that_do_not_fit():
    image = photo(41, 56)
    assert np.array_equal(apply("central_crop((20, 30))", image), image[10:30, 13:43])
    with pytest.raises(ImageFault, match="the image is 41x56, smaller than the crop 64x64"):
        apply("central_crop(64)", image)
    with pytest.raises(ImageFault, match="smaller than the crop"):
        apply("random_crop(50)", image)


def test_images_beyond_memory_are_refused_before_they_are_made():
    line = np.zeros((1, 20_000, 1), np.uint8)
    for text in ("resize_small(224)", "resize_small(224, rule='torchvision')"):
        with pytest.raises(ImageFault, match="224x4480000 is beyond 178,956,970 pixels"):
            apply(text, line)
    with pytest.raises(ImageFault, match="16385x36384 is beyond 178,956,970 pixels"):
        apply("random_crop(8, pad=8192)", line)
    assert apply("resize_small(4)", line).shape == (4, 80_000, 1)


def positions(text, image, draws=400):
    """Where in `image` (each pixel different) the first pixel of the result came from."""
    return {tuple(apply(text, image, seed)[0, 0]) for seed in range(draws)}


def test_random_crops_reach_every_place():
    image = np.moveaxis(np.indices((6, 7)), 0, -1).astype(np.uint8)
    assert positions("random_crop((4, 5))", image) == {(i, j) for i in range(3) for j in range(3)}


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_random_crop_of_a_padded_image(mode):
    image = photo(6, 9)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
    wanted = {padded[i : i + 6, j : j + 6].tobytes() for i in range(5) for j in range(8)}
    text = f"random_crop(6, pad=2, mode={mode!r})"
    assert {apply(text, image, seed).tobytes() for seed in range(600)} == wanted


def test_pad_crop_and_shift_move_by_whole_pixels():
    image = photo(9, 8)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    wanted = {padded[i : i + 9, j : j + 8].tobytes() for i in range(5) for j in range(5)}
    for text in ("pad_crop(2)", "shift(2)"):
        assert {apply(text, image, seed).tobytes() for seed in range(400)} == wanted
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    wanted = {padded[i : i + 9, j : j + 8].tobytes() for i in range(5) for j in range(5)}
    found = {apply("pad_crop(2, mode='reflect')", image, seed).tobytes() for seed in range(400)}
    assert found == wanted
    assert apply("pad_crop(50)", image).shape == image.shape


def test_flip_mirrors_half_of_the_images():
    image = photo()
    flipped = [np.array_equal(apply("flip", image, s), image[:, ::-1]) for s in range(400)]
    assert 150 < sum(flipped) < 250
    assert np.array_equal(apply("flip(1.0)", image), image[:, ::-1])
    assert np.array_equal(apply("flip(0)", image), image)


def test_random_resized_crop_draws_inception_boxes():
    crop = RandomResizedCrop(24)
    rng = np.random.default_rng(0)
    boxes = np.array([crop.box(300, 400, rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    area = height * width / (300 * 400)
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    assert 0.05 <= area.min() < 0.06
    assert 0.9 < area.max() <= 1
    ratio = width / height
    assert 0.74 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.35
    # The height is uniform between sqrt(5 %) and the whole side, not the area (as in torchvision).
    square = height[np.abs(ratio - 1) < 0.05]
    assert abs(square.mean() - (np.sqrt(0.05 * 300 * 400) + 300) / 2) < 5
    assert abs(top.mean() / (300 - height).mean() - 0.5) < 0.03


def test_random_resized_crop_takes_the_whole_image_where_nothing_fits():
    assert RandomResizedCrop(8, scale=(0.9, 1.0)).box(20, 400, np.random.default_rng(0)) == (
        0,
        0,
        20,
        400,
    )
    for shape in ((1, 1), (2, 300), (300, 2)):
        assert apply("random_resized_crop(8)", photo(*shape)).shape == (8, 8, 3)


def test_random_resized_crop_resizes_the_box():
    image, crop = photo(60, 80), RandomResizedCrop(24)
    top, left, height, width = crop.box(60, 80, np.random.default_rng(4))
    box = np.ascontiguousarray(image[top : top + height, left : left + width])
    expected = cv2.resize(box, (24, 24), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(crop(image, np.random.default_rng(4)), expected)


def test_rotate_turns_about_the_centre():
    image = photo(31, 31)
    largest = np.nextafter(1.0, 0.0)
    turned = transforms.parse("rotate(90)")(image, Fixed(largest)).astype(int)
    assert np.abs(turned - np.rot90(image).astype(int)).max() <= 1
    assert np.array_equal(transforms.parse("rotate(90)")(image, Fixed(0.5)), image)
    white = np.full((31, 31, 1), 255, np.uint8)
    corner = transforms.parse("rotate(45, fill=7)")(white, Fixed(largest))[0, 0]
    assert corner == 7


def test_affine_moves_zooms_and_shears():
    image = np.zeros((21, 21, 1), np.uint8)
    image[10, 14] = 200  # 4 right of the centre
    image[6, 10] = 100  # 4 above it

    def largest(text):
        return transforms.parse(text)(image, Fixed(np.nextafter(1.0, 0.0)))[..., 0].astype(int)

    moved = largest("affine(translate=2)")
    assert abs(moved[12, 16] - 200) <= 1
    assert abs(moved[8, 12] - 100) <= 1
    zoomed = largest("affine(scale=0.5)")
    assert abs(zoomed[10, 16] - 200) <= 1
    assert abs(zoomed[4, 10] - 100) <= 1
    sheared = largest("affine(shear=45)")  # x + y: what is 4 above moves 4 left
    assert abs(sheared[10, 14] - 200) <= 1
    assert abs(sheared[6, 6] - 100) <= 1
    assert np.array_equal(largest("affine()"), image[..., 0])


def test_cutout_sets_one_box():
    image = np.full((20, 30, 2), 9, np.uint8)
    sizes = {(apply("cutout((6, 4), fill=1)", image, s) == 1).all(-1).sum() for s in range(200)}
    assert max(sizes) == 24
    assert min(sizes) < 24  # cut off at the edge
