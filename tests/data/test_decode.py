"""Decoding: both libraries give the same pixels of every kind of file, and faults are named."""

import functools
import io

import cv2
import numpy as np
import pytest
from image_files import jpeg_claiming, jpeg_segments, png, without_segment
from pictures import photo
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps

from big_vit_lite.data import transforms
from big_vit_lite.data.transforms import decode, headers
from big_vit_lite.data.transforms.op import MOST_PIXELS, ImageFault

# Pillow warns of what it finds in damaged files; the faults say it better.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RGB, GREY, ALPHA = photo(37, 53), photo(37, 53, 1), photo(37, 53, 1, seed=3)
OTHER = Pillow.fromarray(photo(37, 53, seed=9))  # the second frame of animations
PALETTE = Pillow.fromarray(RGB).quantize(64)
WIDE = np.random.default_rng(0).integers(0, 1 << 16, (37, 53, 4), dtype=np.uint16)
HIGH = (WIDE >> 8).astype(np.uint8)
BITS = np.random.default_rng(1).integers(0, 256, (9, 11, 1))


def apply(text, image, seed=0):
    return transforms.parse(text)(image, np.random.default_rng(seed))


def saved(image, form, **options):
    image = (
        image
        if isinstance(image, Pillow.Image)
        else Pillow.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    )
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def rgb(grey):
    return np.repeat(np.asarray(grey, np.uint8).reshape(*np.shape(grey)[:2], 1), 3, axis=-1)


def frames(image, form, **options):
    return saved(image, form, save_all=True, append_images=[OTHER], **options)


def coloured(depth):
    """A palette PNG of `depth` bits a pixel, with transparency, and its pixels."""
    colours = np.random.default_rng(depth).integers(0, 256, (1 << depth, 3), dtype=np.uint8)
    values = BITS & ((1 << depth) - 1)
    alphas = (b"tRNS", bytes(range(1 << depth)))
    file = png(values, depth, 3, before=[(b"PLTE", colours.tobytes()), alphas])
    return file, colours[values[..., 0]]


def cmyk(adobe=None):
    """A CMYK JPEG; `adobe`: the transform byte of its Adobe segment (2: YCCK), or "none"."""
    data = saved(Pillow.fromarray(photo(37, 53, 4), mode="CMYK"), "JPEG", quality=95)
    if adobe == "none":
        return without_segment(data, 0xEE)
    if adobe is None:
        return data
    end = next(end for marker, _, end in jpeg_segments(data) if marker == 0xEE)
    return data[: end - 1] + bytes([adobe]) + data[end:]


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # nothing like sRGB
RGBA = np.dstack([RGB, ALPHA])
GREY_ALPHA = np.dstack([GREY, ALPHA])

# What OpenCV decodes: file and, where it is known without a library, its pixels.
BY_OPENCV = {
    "baseline JPEG": (saved(RGB, "JPEG"), None),
    "baseline JPEG 4:4:4": (saved(RGB, "JPEG", quality=95, subsampling=0), None),
    "baseline JPEG 4:2:2": (saved(RGB, "JPEG", quality=60, subsampling=1), None),
    "progressive JPEG": (saved(RGB, "JPEG", progressive=True), None),
    "JPEG with restarts": (saved(RGB, "JPEG", restart_marker_blocks=2), None),
    "JPEG of RGB": (saved(RGB, "JPEG", keep_rgb=True), None),
    "JPEG with profile": (saved(RGB, "JPEG", icc_profile=PROFILE), decode.read(saved(RGB, "JPEG"))),
    "JPEG with bytes after": (saved(RGB, "JPEG") + b"junk", decode.read(saved(RGB, "JPEG"))),
    "grey JPEG": (saved(GREY, "JPEG"), None),
    "grey progressive JPEG": (saved(GREY, "JPEG", progressive=True), None),
    "JPEG 1x1": (saved(RGB[:1, :1], "JPEG"), None),
    "JPEG 20,000x100": (saved(np.tile(photo(100, 100), (200, 1, 1)), "JPEG"), None),
    "PNG RGB": (saved(RGB, "PNG"), RGB),
    "PNG RGB interlaced": (png(RGB, 8, 2, interlaced=True), RGB),
    "PNG RGB one colour clear": (saved(RGB, "PNG", transparency=tuple(RGB[0, 0].tolist())), RGB),
    "PNG RGB with gamma": (png(RGB, 8, 2, before=[(b"gAMA", (10_000).to_bytes(4))]), RGB),
    "PNG with profile": (saved(RGB, "PNG", icc_profile=PROFILE), RGB),
    "PNG RGBA": (saved(RGBA, "PNG"), RGB),
    "PNG RGBA interlaced": (png(RGBA, 8, 6, interlaced=True), RGB),
    "PNG grey": (saved(GREY, "PNG"), rgb(GREY)),
    "PNG grey interlaced": (png(GREY, 8, 0, interlaced=True), rgb(GREY)),
    "PNG grey one level clear": (saved(GREY, "PNG", transparency=int(GREY[0, 0, 0])), rgb(GREY)),
    "PNG grey and alpha": (png(GREY_ALPHA, 8, 4), rgb(GREY)),
    "PNG 1 bit": (png(BITS & 1, 1, 0), rgb((BITS & 1) * 255)),
    "PNG 1 bit interlaced": (png(BITS & 1, 1, 0, interlaced=True), rgb((BITS & 1) * 255)),
    "PNG 2 bits": (png(BITS & 3, 2, 0), rgb((BITS & 3) * 85)),
    "PNG 4 bits": (png(BITS & 15, 4, 0), rgb((BITS & 15) * 17)),
    "PNG palette": (saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "PNG palette of 1 bit": coloured(1),
    "PNG palette of 4 bits": coloured(4),
    "PNG palette of 8 bits": coloured(8),
    "PNG 16-bit grey": (png(WIDE[..., 0], 16, 0), rgb(HIGH[..., 0])),
    "PNG 16-bit grey interlaced": (png(WIDE[..., 0], 16, 0, interlaced=True), rgb(HIGH[..., 0])),
    "PNG 16-bit grey and alpha": (png(WIDE[..., :2], 16, 4), rgb(HIGH[..., 0])),
    "PNG 16-bit RGB": (png(WIDE[..., :3], 16, 2), HIGH[..., :3]),
    "PNG 16-bit RGBA": (png(WIDE, 16, 6), HIGH[..., :3]),
    "PNG 1x1": (saved(RGB[:1, :1], "PNG"), RGB[:1, :1]),
    "PNG 100x20,000": (saved(np.tile(RGB[:, :50], (1, 400, 1)), "PNG"), None),
    "WebP": (saved(RGB, "WEBP"), None),
    "WebP with alpha": (saved(RGBA, "WEBP"), None),
    "WebP lossless": (saved(RGB, "WEBP", lossless=True), RGB),
    "WebP lossless alpha": (saved(RGBA, "WEBP", lossless=True, exact=True), RGB),
    "WebP with profile": (saved(RGB, "WEBP", lossless=True, icc_profile=PROFILE), RGB),
}

# What Pillow decodes, because OpenCV gives other pixels or, in some versions, none.
BY_PILLOW = {
    "CMYK JPEG": (cmyk(), None),
    "CMYK JPEG without Adobe's segment": (cmyk("none"), None),
    "YCCK JPEG": (cmyk(2), None),
    "animated PNG": (frames(Pillow.fromarray(RGB), "PNG"), RGB),
    "animated PNG, other still": (frames(Pillow.fromarray(RGB), "PNG", default_image=True), RGB),
    "animated WebP": (frames(Pillow.fromarray(RGB), "WEBP", lossless=True), RGB),
    "GIF": (saved(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "GIF one colour clear": (
        saved(PALETTE, "GIF", transparency=3),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "animated GIF": (frames(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "BMP": (saved(RGB, "BMP"), RGB),
    "BMP grey": (saved(GREY, "BMP"), rgb(GREY)),
    "TIFF": (saved(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "TIFF RGBA": (saved(RGBA, "TIFF"), RGB),
    "TIFF 16-bit grey": (saved(WIDE[..., 0], "TIFF"), rgb(HIGH[..., 0])),
    "PPM": (saved(RGB, "PPM"), RGB),
    "PGM 16-bit": (saved(WIDE[..., 0], "PPM"), rgb(HIGH[..., 0])),
}


@pytest.mark.parametrize("kind", BY_OPENCV)
@pytest.mark.filterwarnings("error")
def test_both_libraries_give_the_same_pixels(kind):
    data, expected = BY_OPENCV[kind]
    pixels = decode._opencv(data)
    assert headers.common_size(data) == pixels.shape[:2]
    assert np.array_equal(pixels, decode._pillow(data))
    assert np.array_equal(pixels, apply("decode", data))
    if expected is not None:
        assert np.array_equal(pixels, expected)
    grey = np.asarray(Pillow.fromarray(pixels).convert("L"))
    assert np.array_equal(apply("decode(channels=1)", data)[..., 0], grey)
    assert np.array_equal(apply("decode(channels=1)", pixels)[..., 0], grey)


@pytest.mark.parametrize("kind", BY_PILLOW)
@pytest.mark.filterwarnings("error")
def test_what_opencv_reads_differently_goes_to_pillow(kind):
    data, expected = BY_PILLOW[kind]
    assert headers.common_size(data) is None
    pixels = apply("decode", data)
    with Pillow.open(io.BytesIO(data)) as opened:
        plain = np.asarray(opened.convert("RGB"))
    assert np.array_equal(pixels, plain if expected is None else expected)
    grey = np.asarray(Pillow.fromarray(pixels).convert("L"))
    assert np.array_equal(apply("decode(channels=1)", data)[..., 0], grey)


def test_cmyk_is_ink_on_paper():
    """Each ink leaves its share of the light: (1 - C) (1 - K), with Adobe's inversion undone."""
    for inks in ((0, 0, 0, 0), (255, 0, 0, 0), (0, 200, 90, 50), (30, 30, 30, 180)):
        flat = Pillow.new("CMYK", (16, 16), inks)
        light = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
        pixels = apply("decode", saved(flat, "JPEG", quality=100))
        assert np.abs(pixels - np.array(light)).max() <= 2
        assert np.abs(apply("decode", saved(flat, "TIFF")) - np.array(light)).max() <= 1


def test_a_png_called_jpeg_is_read_by_what_it_is():
    """One image of ImageNet's training set is a PNG with the ending .JPEG; bytes have no name."""
    assert np.array_equal(apply("decode", saved(RGBA, "PNG")), RGB)


# Orientation

UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
# Where the rows and columns of the stored image are to be seen, from EXIF 2.32, tag 274.
SEEN = {
    1: [[0, 1, 2], [3, 4, 5]],  # row 0 is the top, column 0 the left
    2: [[2, 1, 0], [5, 4, 3]],  # the top, the right
    3: [[5, 4, 3], [2, 1, 0]],  # the bottom, the right
    4: [[3, 4, 5], [0, 1, 2]],  # the bottom, the left
    5: [[0, 3], [1, 4], [2, 5]],  # the left, the top
    6: [[3, 0], [4, 1], [5, 2]],  # the right, the top
    7: [[5, 2], [4, 1], [3, 0]],  # the right, the bottom
    8: [[2, 5], [1, 4], [0, 3]],  # the left, the bottom
}


def with_tag(tag, form):
    exif = Pillow.Exif()
    exif[0x0112] = tag
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(form, {})
    large = np.kron(UPRIGHT, np.ones((16, 16), np.uint8))  # so that JPEG keeps it apart
    return saved(rgb(large), form, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("tag", SEEN)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_followed_only_when_asked_for(tag, form):
    data = with_tag(tag, form)

    def cells(pixels):
        return np.rint(pixels[8::16, 8::16, 0] / 40).astype(int).tolist()

    assert cells(apply("decode", data)) == SEEN[1]
    assert cells(apply("decode(exif=True)", data)) == SEEN[tag]
    assert cells(apply("decode(channels=1, exif=True)", data)) == SEEN[tag]
    if headers.common_size(data):
        assert np.array_equal(decode._opencv(data), decode._pillow(data))
    with Pillow.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert np.array_equal(apply("decode(exif=True)", data), expected)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0junk",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",  # tag 9
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02up\0\0\0\0\0\0",  # a text
    ],
)
def test_an_orientation_that_makes_no_sense_is_none(exif):
    data = saved(RGB, "JPEG", exif=exif)
    assert np.array_equal(apply("decode(exif=True)", data), apply("decode", data))


# Faults


@functools.cache
def cuttable():
    small = photo(17, 23)
    palette = Pillow.fromarray(small).quantize(16)
    return {
        "JPEG": saved(small, "JPEG"),
        "progressive JPEG": saved(small, "JPEG", progressive=True),
        "JPEG with restarts": saved(small, "JPEG", restart_marker_blocks=1),
        "grey JPEG": saved(photo(17, 23, 1), "JPEG"),
        "CMYK JPEG": saved(Pillow.fromarray(photo(17, 23, 4), mode="CMYK"), "JPEG"),
        "PNG": saved(small, "PNG"),
        "PNG palette": saved(palette, "PNG"),
        "animated PNG": frames(Pillow.fromarray(small), "PNG"),
        "WebP": saved(small, "WEBP"),
        "WebP lossless": saved(small, "WEBP", lossless=True),
        "GIF": saved(palette, "GIF"),
        "BMP": saved(small, "BMP"),
        "TIFF": saved(small, "TIFF"),
        "PPM": saved(small, "PPM"),
    }


@pytest.mark.parametrize("kind", cuttable())
def test_a_cut_file_is_never_read_as_a_picture_with_a_rest(kind):
    """Cut anywhere it is refused, or whole: what is missing is not part of the (first) image."""
    data = cuttable()[kind]
    whole, refused = apply("decode", data), 0
    step = 1 if "JPEG" in kind else 7
    for cut in range(1, len(data), step):
        for rest in (b"", bytes(5000)) if "JPEG" in kind else (b"",):  # as a failed download
            try:
                assert np.array_equal(apply("decode", data[:cut] + rest), whole)
            except ImageFault:
                refused += 1
    cuts = len(range(1, len(data), step)) * (2 if "JPEG" in kind else 1)
    assert refused == cuts if "JPEG" in kind else refused > 0.4 * cuts


def claims(height, width):
    """Small files that say they are this large."""
    sides = width.to_bytes(4, "little"), height.to_bytes(4, "little")
    gif, bmp = saved(PALETTE, "GIF"), saved(RGB, "BMP")
    webp = saved(RGB, "WEBP", lossless=True, icc_profile=PROFILE)
    found = {
        "PNG": png(RGB, 8, 2, claim=(height, width)),
        "BMP": bmp[:18] + sides[0] + sides[1] + bmp[26:],
        "WebP": webp[:24]
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
        + webp[30:],
        "PPM": b"P6 %d %d 255\n" % (width, height),
    }
    if max(height, width) < 1 << 16:
        found["JPEG"] = jpeg_claiming(saved(RGB, "JPEG"), height, width)
        found["CMYK JPEG"] = jpeg_claiming(cmyk(), height, width)
        found["GIF"] = gif[:6] + sides[0][:2] + sides[1][:2] + gif[10:]
    return found


@pytest.mark.parametrize(("height", "width"), [(60_000, 60_000), (100_000, 100_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_before_memory_is_taken(height, width):
    for kind, data in claims(height, width).items():
        with pytest.raises(ImageFault) as error:
            apply("decode", data)
        assert "pixels" in str(error.value), kind
    assert MOST_PIXELS == 2 * Pillow.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the image is empty (zero bytes)"),
        (
            b"<!DOCTYPE html><title>Not found</title>",
            "the bytes are not an image of a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, "
            "AVIF) or are damaged at the beginning: b'<!DOCTYPE html><'",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "the bytes are not an image of a known format"),
        (saved(RGB, "JPEG")[:-99], "the image is truncated: a JPEG without its end marker"),
        (saved(RGB, "JPEG")[:300] + b"\xff\xd9", "the image cannot be decoded ("),
        (saved(RGB, "PNG")[:300], "the image cannot be decoded ("),
        (saved(np.zeros((4, 4), np.float32), "TIFF"), "pixels of 32 bits have no known range"),
        (saved(np.zeros((4, 4), np.int32), "TIFF"), "pixels of 32 bits have no known range"),
        (png(RGB, 8, 2, claim=(0, 5)), "or are damaged at the beginning: b'\\x89PNG"),
        (np.zeros((4, 4, 2), np.uint8), "2 channels cannot become 3"),
        (np.zeros((4, 4, 3), np.float32), "pixels are uint8 (H, W, C), not float32 (4, 4, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "pixels are uint8 (H, W, C), not uint8 (0, 4, 3)"),
    ],
)
def test_refusals(data, text):
    with pytest.raises(ImageFault) as error:
        apply("decode", data)
    assert text in str(error.value)


def test_header_of_a_jpeg_with_a_thumbnail_and_fill_bytes():
    """The thumbnail in the EXIF segment is a JPEG of its own, with other sizes and an end."""
    thumbnail = saved(photo(8, 8), "JPEG")
    data = saved(RGB, "JPEG", exif=b"Exif\0\0" + thumbnail)
    filled = data[:2] + b"\xff\xff" + data[2:]
    for whole in (data, filled):
        assert headers.jpeg_frame(whole)[:4] == (37, 53, 3, True)
        assert np.array_equal(apply("decode", whole), apply("decode", saved(RGB, "JPEG")))
        assert not headers.jpeg_ends(whole[:-2])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), -1).shape == (37, 53, 3)
    for none in (thumbnail[:20], b"\xff\xd8", b"\xff\xd8\xff\xda" + bytes(20), b"\xff\xd8junk" * 9):
        assert headers.jpeg_frame(none) is None
