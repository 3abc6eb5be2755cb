"""What the first bytes of an image file say, read without decoding: size and how it is stored.

Decoding asks here which library to use and whether the pixels fit into memory. On an ordinary
photograph this takes about a microsecond, a thousandth of the decoding.
"""

from __future__ import annotations

from typing import NamedTuple

from big_vit_lite.data.transforms.op import Size

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_END = b"\xff\xd9"
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, with Huffman coding
_NO_FRAMES = {0xC4, 0xC8, 0xCC}  # tables between the other frame markers


class JpegFrame(NamedTuple):
    """A JPEG's frame header: `common` if 8-bit and baseline, extended or progressive."""

    height: int
    width: int
    components: int  # 1 grey, 3 YCbCr or RGB, 4 CMYK or YCCK
    common: bool
    at: int  # where in the file it stands


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """The frame header of a JPEG; None where there is none in its place."""
    at, last = 2, len(data) - 10
    while at <= last and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            common = marker in _FRAMES and data[at + 4] == 8
            return JpegFrame(height, width, data[at + 9], common, at)
        elif marker in (0xD9, 0xDA):  # end, or pixels before any frame
            return None
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def jpeg_ends(data: bytes) -> bool:
    """Whether the end marker follows the frame; bytes after it are allowed.

    Within compressed pixels the marker cannot occur. A file cut off without one is read by some
    decoders as a picture with a grey or black rest, if something else fills it up.
    """
    if data.endswith(_END):
        return True
    frame = jpeg_frame(data)
    return data.find(_END, frame.at if frame else 2) >= 0


def common_size(data: bytes) -> Size | None:
    """(height, width) of a file of a kind that OpenCV reads exactly as Pillow does.

    These are JPEGs of one or three components, PNGs with all their parts, and WebPs, both without
    animation. None for all else: CMYK JPEGs, GIFs, TIFFs and what is no image. Tests compare both
    libraries on each kind.
    """
    if data.startswith(JPEG):
        frame = jpeg_frame(data)
        if frame and frame.common and frame.components in (1, 3):
            return frame.height, frame.width
    elif data.startswith(PNG) and data[12:16] == b"IHDR" and _whole_still_png(data):
        return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_size(data)
    return None


def _whole_still_png(data: bytes) -> bool:
    """Whether every chunk up to the last fits into the file, and none belongs to an animation.

    OpenCV takes as much memory for a chunk as its header says, up to 4 GB, before reading it; its
    version 4.11 crashes on some damaged animations.
    """
    at = len(PNG)
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind in (b"IEND", b"acTL"):
            return kind == b"IEND"
        at += 12 + int.from_bytes(data[at : at + 4])
    return False


def _webp_size(data: bytes) -> Size | None:
    """(height, width) of a still WebP: RFC 9649, sections 2.5 to 2.7."""
    kind = data[12:16]
    if kind == b"VP8X" and not data[20] & 2:  # 2: animated
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        height, width = int.from_bytes(data[28:30], "little"), int.from_bytes(data[26:28], "little")
        return height & 0x3FFF, width & 0x3FFF
    return None
