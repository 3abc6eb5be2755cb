"""Whatever a user types and whatever bytes a file holds: our own faults or a sound result."""

import functools
import inspect
import io
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_files import jpeg_claiming, png
from pictures import photo
from PIL import Image as Pillow

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data import transforms
from big_vit_lite.data.blocks import Blocks, Pool
from big_vit_lite.data.examples import Examples
from big_vit_lite.data.order import Once, Shuffled
from big_vit_lite.data.sources import Source
from big_vit_lite.data.transforms import op
from big_vit_lite.data.transforms.op import ImageFault
from big_vit_lite.data.transforms.parse import OPS
from big_vit_lite.data.transforms.resize import METHODS, RULES

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of what it finds in damaged files


def fuzz(examples, seconds=20):
    """The same examples on every run; each within `seconds`, so that nothing hangs."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=1000 * seconds,
        suppress_health_check=list(HealthCheck),
    )


# Transforms

SENSIBLE = ("1", "2", "8", "9.5", "0.5", "(8, 12)", "(0.2, 0.9)", "True", "None", "'bicubic'")
ODD = (
    "0",
    "-1",
    "-0.0",
    "255",
    "10000",
    "1000000",
    "1000000000",
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 5000,
    "5e-324",
    "1e-6",
    "1e308",
    "1e999",
    "-1e999",
    "1e999j",
    "''",
    "'" + "x" * 300 + "'",
    r"'\n\0'",
    "b'x'",
    "...",
    "()",
    "(1,)",
    "(1, 2, 3)",
    "(1e999, 1e999)",
    "((8, 8), (8, 8))",
    "[8, 8]",
    "{}",
    "{1: {2: 3}}",
    "{'a': 'flip'}",
    "flip",
    "'flip'",
    "'decode'",
    "'" + "|".join(["flip"] * 50) + "'",
    "('resize(1000000)', 3)",
    "'torchvision'",
    "'reflect'",
    "not 1",
    "*(8,)",
    "**{'p': 1}",
    "-" * 60 + "1",
    "(" * 50 + "1" + ")" * 50,
)
VALUES = st.sampled_from(SENSIBLE) | st.sampled_from(SENSIBLE) | st.sampled_from(ODD)


@st.composite
def calls(draw):
    """An operation with some of its arguments, each sensible or odd."""
    name = draw(st.sampled_from(sorted(OPS)))
    names = list(inspect.signature(OPS[name]).parameters) + ["other"]
    positional = draw(st.lists(VALUES, max_size=3))
    named = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3))
    arguments = [*positional, *(f"{key}={value}" for key, value in named.items())]
    return f"{name}({', '.join(arguments)})"


CHAINS = st.lists(calls(), min_size=1, max_size=3).map("|".join)
EXTREMES = (
    *("0", "3", "15", "33", "180", "255", "300", "1000000", "1e-6", "0.01", "1.0", "1.5"),
    *("(1, 1)", "(0.01, 0.02)", "(1e-6, 1000000)", "(1.0, 1.0)", "(3, 40)", "False"),
    *(repr(word) for word in (*METHODS, *RULES, "reflect", "constant", "const", "rand", "pixel")),
)


@functools.cache
def accepted(name):
    """[(parameter, values it takes)] of an operation, of the sensible and the extreme ones."""
    parameters = inspect.signature(OPS[name]).parameters.values()
    needed = {p.name: "8" for p in parameters if p.default is p.empty}
    found = []
    for parameter in parameters:
        values = []
        for value in dict.fromkeys(SENSIBLE + EXTREMES):
            arguments = {**needed, parameter.name: value}
            text = f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
            if not transforms.check(text):
                values.append(value)
        found.append((parameter.name, values, parameter.name in needed))
    return found


@st.composite
def sound_calls(draw):
    """An operation whose arguments are each accepted, up to the limits of what is."""
    name = draw(st.sampled_from(sorted(set(OPS) - {"features"})))
    if name == "views":
        return "views(one='resize(8)', two=(2, 'random_crop(4)'))"
    arguments = {
        parameter: draw(st.sampled_from(values))
        for parameter, values, needed in accepted(name)
        if values and (needed or draw(st.booleans()))
    }
    return f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})"


SOUND = st.lists(sound_calls(), min_size=1, max_size=3).map("|".join)
TOKENS = sorted(OPS) + list("()|,=*'\"-.:[]{}\n\0# ") + ["8", "0.5", "lambda", "if", "p", "é", "**"]


@st.composite
def mutated(draw):
    text = draw(CHAINS)
    at, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    return text[:at] + draw(st.text(string.printable, max_size=4)) + text[end:]


def require_sound(faults):
    assert all(isinstance(fault, str) and fault and "\n" not in fault for fault in faults)


@fuzz(400)
@given(st.text() | mutated() | st.lists(st.sampled_from(TOKENS), max_size=30).map("".join))
@example("flip(" * 300 + ")" * 300)
@example("-" * 5000 + "1")
@example("flip(p=" + "-" * 3000 + "1)")
@example("resize(" + "(" * 150 + "1" + ",)" * 150 + ")")
@example("a.b" * 3000)
@example("resize(0x" + "f" * 10_000 + ")")
@example("resize(-0x" + "f" * 10_000 + ", size=x)")
@example("flip(0x" + "f" * 10_000 + "+x)")
def test_any_text_is_a_transform_or_has_faults_in_plain_sentences(text):
    faults = transforms.check(text)
    require_sound(faults)
    if faults:
        with pytest.raises(InputError):
            transforms.parse(text)


IMAGES = [
    photo(20, 31),
    photo(31, 20, 1),
    photo(1, 1),
    photo(1, 90, 1),
    photo(64, 3),
    photo(9, 9, 4),
]


@pytest.fixture(autouse=True, scope="module")
def small_limit():
    """Gigantic images are those of 4 million pixels here, so that tests may reach the limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "MOST_PIXELS", 1 << 22)
        yield


# features reads files of another kind than images.
@pytest.mark.parametrize("name", sorted(set(OPS) - {"views", "features"}))
def test_every_argument_is_refused_or_works_up_to_its_limit(name):
    needed = {parameter: "8" for parameter, _, needed in accepted(name) if needed}
    for parameter, values, _ in accepted(name):
        for seed, value in enumerate(values):
            arguments = {**needed, parameter: value}
            text = f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
            for image in IMAGES:
                try:
                    transforms.parse(text)(image, np.random.default_rng(seed))
                except ImageFault as fault:
                    require_sound([str(fault)])


@fuzz(600)
@given(SOUND, st.sampled_from(IMAGES), st.integers(0, 9))
def test_any_sound_transform_makes_pixels_or_an_image_fault(text, image, seed):
    if transforms.check(text):  # such as one whose steps do not follow each other
        return
    transform = transforms.parse(text)
    try:
        made = transform(image, np.random.default_rng(seed))
    except ImageFault as fault:
        require_sound([str(fault)])
        return
    arrays = made if isinstance(made, dict) else {"image": made}
    for array in arrays.values():
        assert isinstance(array, np.ndarray)
        assert array.size
    assert sum(array.nbytes for array in arrays.values()) < 1 << 30
    if not isinstance(made, dict):
        assert made.dtype == np.uint8
        assert made.ndim == 3
        assert made.shape[:2] == (transform.output_size(image.shape[:2]) or made.shape[:2])


# Files


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def valid_files():
    rgb, grey = Pillow.fromarray(photo(13, 17)), Pillow.fromarray(photo(13, 17, 1)[..., 0])
    palette, alpha = rgb.quantize(16), rgb.copy()
    alpha.putalpha(grey)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"
    animated = {"save_all": True, "append_images": [rgb.rotate(90)]}
    return [
        saved(rgb, "JPEG", exif=exif),
        saved(rgb, "JPEG", progressive=True),
        saved(rgb, "JPEG", restart_marker_blocks=1, optimize=True),
        saved(grey, "JPEG"),
        saved(rgb.convert("CMYK"), "JPEG"),
        jpeg_claiming(saved(rgb, "JPEG"), 2000, 2000),
        saved(rgb, "PNG", exif=exif),
        saved(alpha, "PNG", **animated),
        saved(palette, "PNG", transparency=b"\0\1\2"),
        png(np.arange(13 * 17 * 3).reshape(13, 17, 3) * 99, 16, 2, interlaced=True),
        saved(rgb, "WEBP", exif=exif),
        saved(alpha, "WEBP", lossless=True),
        saved(alpha, "WEBP", **animated),
        saved(palette, "GIF", **animated),
        saved(rgb, "BMP"),
        saved(palette, "BMP"),
        saved(rgb, "TIFF", compression="tiff_lzw", exif=exif),
        saved(rgb.convert("CMYK"), "TIFF"),
        saved(rgb, "PPM"),
    ]


FILES = valid_files()
NUMBERS = [bytes([v] * n) for v in (0, 1, 0x7F, 0x80, 0xFF) for n in (1, 2, 4)] + [b"\xff\xd9"]


@st.composite
def damaged(draw):
    """A file with pieces overwritten, cut out, repeated, put in or cut off; most near the head."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 4))):
        reach = draw(st.sampled_from((32, 64, 200, len(data))))
        at = draw(st.integers(0, min(reach, len(data))))
        piece = draw(st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=8))
        kind = draw(st.sampled_from(("set", "set", "set", "put", "cut", "again", "end", "join")))
        if kind == "set":
            data[at : at + len(piece)] = piece
        elif kind == "put":
            data[at:at] = piece
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "again":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "end":
            del data[at:]
        else:
            data[at:] = draw(st.sampled_from(FILES))[at:]
    return bytes(data)


CHAIN = transforms.parse("decode(exif=True)|resize_small(8)|central_crop(8)|flip")
TEXTS = (
    "decode",
    "decode(channels=1)",
    "decode(exif=True)",
    "decode|random_resized_crop(2, rule='torchvision')",
    "decode(1, approximate=True)|resize(3)",
    "decode(approximate=True)|resize_small(2)",
)
DECODES = [transforms.parse(text) for text in TEXTS]


@fuzz(800)
@given(damaged() | st.binary(max_size=100), st.sampled_from([CHAIN, *DECODES]))
def test_any_bytes_are_pixels_or_an_image_fault(data, transform):
    try:
        image = transform(data, np.random.default_rng(0))
    except ImageFault as fault:
        require_sound([str(fault)])
        return
    assert image.dtype == np.uint8
    assert image.size
    assert image.shape[0] * image.shape[1] <= op.MOST_PIXELS
    assert image.shape[2] == transform.ops[0].channels


class Bytes(Source):
    """Files in memory."""

    class_names = ("only",)

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return {"image": self.files[i], "label": 0}

    def labels(self):
        return np.zeros(len(self), int)

    def name_of(self, i):
        return f"file {i}"


@fuzz(40)
@given(st.lists(damaged(), min_size=1, max_size=6), st.booleans())
def test_a_stream_of_damaged_files_goes_on_without_them(files, evaluating):
    source = Bytes([FILES[0], *files, *FILES[:3]])
    readable = []
    for data in source.files:
        try:
            readable.append(CHAIN(data, np.random.default_rng(0)).shape == (8, 8, 3))
        except ImageFault:
            readable.append(False)
    examples = Examples(source, CHAIN, seed=0)
    order = Once(len(source)) if evaluating else Shuffled(len(source), 0)
    blocks = Blocks(Pool([examples]), order, len(source), evaluating)
    try:
        arrays, skipped, _ = blocks.make(0, np.arange(len(source)))
    except RunError as error:  # by chance, all that were tried instead of a bad one were bad
        require_sound([str(error)])
        return
    assert arrays["image"].shape == (len(source), 8, 8, 3)
    for name, fault in skipped:
        assert not readable[int(name.removeprefix("file "))]
        require_sound([fault])
    if evaluating:
        assert arrays["mask"].tolist() == readable
        assert len(skipped) == readable.count(False)
