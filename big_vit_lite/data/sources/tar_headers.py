"""The headers of a tar file, walked over without reading what they head.

A tar file is a chain of 512-byte headers, each followed by the member's bytes: whoever wants the
last member must have walked over all headers. The walk here understands what tar programs write
today: POSIX ustar and pax headers, GNU long names and base-256 sizes (POSIX.1-2017, pax; GNU tar
manual, "Basic Tar Format"). It makes no object for a member, as the standard library's tarfile
does, which takes more than twice the time.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator

BLOCK = 512
_LONGEST = 1 << 20  # bytes of a long name or an extended header; no program writes so many
_REGULAR, _LINKS, _LONG_NAME, _PAX = b"0\0" + b"7", b"12", b"L", b"x"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
ReadAt = Callable[[int, int], bytes]  # (start, size) -> bytes, fewer at the end of the file


def reader(file: io.IOBase) -> ReadAt:
    """Reads of an open file at any place; a local one is asked without seeking."""
    try:
        number = file.fileno()
    except (AttributeError, OSError):

        def read_at(start: int, size: int) -> bytes:
            file.seek(start)
            return file.read(size)

        return read_at
    return lambda start, size: os.pread(number, size, start)


def members(read_at: ReadAt) -> Iterator[tuple[str, int, int, int]]:
    """(name, start, size, CRC-32 of its header) of every regular file, in order.

    Raises:
      ValueError: what is wrong, as the rest of a sentence about the shard.
    """
    position, name, longer = 0, None, {}
    while True:
        header = read_at(position, BLOCK)
        if position == 0:
            _refuse_compressed(header)
        if len(header) < BLOCK or not header.strip(b"\0"):
            _require_end(header, position, read_at)
            return
        kind = header[156:157]
        try:
            stated = int(header[148:156].strip(b" \0"), 8)
            size = longer["size"] if "size" in longer else _size(header[124:136])
        except ValueError:
            raise ValueError(_not_a_header(position)) from None
        # The sum is taken with the eight bytes of the sum itself as spaces.
        if stated != sum(header) - sum(header[148:156]) + 8 * 32:
            raise ValueError(_not_a_header(position))
        start = position + BLOCK
        position = start + -(-size // BLOCK) * BLOCK
        if kind in (_LONG_NAME, _PAX):
            text = read_at(start, min(size, _LONGEST))
            if len(text) < size:
                raise ValueError(_cut(start))
            if kind == _LONG_NAME:
                name = text.rstrip(b"\0")
            else:
                try:
                    longer = _pax(text)
                except ValueError:
                    raise ValueError(_not_a_header(start)) from None
                name = longer.get("path", name)
            continue
        name = name or _name(header)
        if kind in _REGULAR and not name.endswith(b"/"):
            yield name.decode("utf-8", "surrogateescape"), start, size, zlib.crc32(header)
        elif kind in _LINKS:
            raise ValueError(
                f"holds {name.decode(errors='replace')} as a link; "
                "pack it with --dereference --hard-dereference"
            )
        elif kind == b"S":
            raise ValueError(
                f"holds {name.decode(errors='replace')} as a sparse file; pack it without --sparse"
            )
        name, longer = None, {}


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _size(field: bytes) -> int:
    """Octal digits, or from 8 GiB on a binary number behind a first byte of 128."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    size = int(field.strip(b" \0") or b"0", 8)
    if size < 0:
        raise ValueError("a size below zero")
    return size


def _pax(text: bytes) -> dict[str, bytes | int]:
    """Path and size among the records "LENGTH KEY=VALUE\\n" of an extended header."""
    found, position = {}, 0
    while position < len(text) and text[position : position + 1].isdigit():
        length = int(text[position:].split(b" ", 1)[0])
        key, _, value = text[position : position + length - 1].partition(b" ")[2].partition(b"=")
        if key == b"path":
            found["path"] = value
        elif key == b"size":
            found["size"] = int(value)
        position += max(1, length)
    return found


def _require_end(header: bytes, position: int, read_at: ReadAt) -> None:
    """The archive ends with blocks of zeros, and behind them nothing else."""
    if not header and not position:
        raise ValueError("is empty; copy it again")
    if len(header) < BLOCK:
        raise ValueError(_cut(position))
    while block := read_at(position, 1 << 20):
        zeros = len(block) - len(block.lstrip(b"\0"))
        if zeros < len(block):
            raise ValueError(
                f"goes on behind its end, at byte {position + zeros}; archives that were joined "
                "with cat have to be unpacked and packed as one"
            )
        position += len(block)


def _cut(position: int) -> str:
    return f"is cut off: it ends before byte {position} is complete; copy it again"


def _not_a_header(position: int) -> str:
    if position == 0:
        return "is no tar file; give the .tar files of the data set"
    return f"is broken at byte {position}, where the header of a member should stand; copy it again"


def _refuse_compressed(header: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if header.startswith(magic):
            raise ValueError(
                f"is compressed with {name}, which leaves no way to read one example; unpack it to "
                "a plain .tar (images are compressed already)"
            )
