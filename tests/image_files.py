"""Image files made by hand, byte by byte, where the pixels must be known without a library."""

import struct
import zlib

import numpy as np

COLOURS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> values a pixel
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)] + [
    (1, 0, 2, 1)
]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values, depth, colour, interlaced=False, before=(), after=(), claim=None):
    """A PNG of values (h, w, values a pixel), with chunks (kind, body) before and after the pixels.

    `claim` is another (height, width) for the header to lie about.
    """
    values = np.asarray(values).reshape(*np.shape(values)[:2], COLOURS[colour])
    height, width = claim or values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    rows = b"".join(
        scanlines(values[top::down, left::right], depth) for top, left, down, right in passes
    )
    parts = [(b"IHDR", head), *before, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def scanlines(values, depth):
    if not values.size:
        return b""
    rows = values.reshape(len(values), -1)
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:  # the values' lowest `depth` bits, one after the other
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = [
            np.packbits(row).tobytes() for row in bits.reshape(len(rows), -1).astype(np.uint8)
        ]
    return b"".join(b"\0" + row for row in packed)


def jpeg_segments(data):
    """[(marker, start, end)] of the segments before the pixels."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append((data[at + 1], at, end))
        at = end
    return found


def jpeg_claiming(data, height, width):
    """The JPEG with another size in its header."""
    at = next(start for marker, start, _ in jpeg_segments(data) if marker in (0xC0, 0xC2))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def without_segment(data, marker):
    """The JPEG without its segments of this marker."""
    for found, start, end in reversed(jpeg_segments(data)):
        if found == marker:
            data = data[:start] + data[end:]
    return data
