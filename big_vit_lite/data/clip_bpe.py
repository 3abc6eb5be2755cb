"""CLIP's byte-pair encoding (Radford et al. 2021), equal to the original in every token.

Needs ftfy and regex, the libraries that the original reads text with: `pip install
"big_vit_lite[clip]"`. Python's own `re` has no classes of letters and numbers.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import re
import zlib
from collections.abc import Sequence
from typing import Any

_MERGES = 48_894  # of the 262,144 in the published file those that CLIP knows
_WORDS = 1 << 16  # kept with their tokens; English captions repeat some 20,000
_START, _END = "<|startoftext|>", "<|endoftext|>"
_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# Text that ftfy and html.unescape leave alone, as most captions are: reading it costs 30 us.
_PLAIN = re.compile(r"[ -%'-~\t\n]*")


def clean(text: str) -> str:
    """Broken encodings mended (ftfy), HTML entities read twice, white space squeezed to blanks."""
    if not _PLAIN.fullmatch(text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _regex(r"\s+").sub(" ", text).strip()


@functools.cache
def _regex(pattern: str) -> Any:
    import regex

    return regex.compile(pattern, regex.IGNORECASE)


class ClipBPE:
    """Text to ids of CLIP's vocabulary; from any thread.

    Ids are the 256 bytes, the 256 bytes at the end of a word, one for each merge, and the two
    specials, which text that spells them out gets, too. The end has the largest id, by which CLIP
    finds it; padding is 0, as in CLIP, which is also the id of "!".

    Args:
      vocabulary: contents of bpe_simple_vocab_16e6.txt.gz, or of a merges.txt: a heading, then two
        symbols a line.

    Raises:
      ValueError: it is neither.
    """

    pad_id = 0
    adds = True, True

    def __init__(self, vocabulary: bytes):
        self.fingerprint = hashlib.sha256(vocabulary).hexdigest()
        merges = _read_merges(vocabulary)
        letters = _letters()
        symbols = [*letters, *(letter + "</w>" for letter in letters)]
        symbols += [first + second for first, second in merges] + [_START, _END]
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        for number, merge in enumerate(merges, 2):
            if not all(symbol in self._ids for symbol in merge):
                raise ValueError(f"line {number} merges symbols that are not in the vocabulary")
        self._merged = {
            (self._ids[first], self._ids[second]): (rank, self._ids[first + second])
            for rank, (first, second) in enumerate(merges)
        }
        self.vocab_size = len(symbols)
        self.start, self.end = (self._ids[_START],), (self._ids[_END],)
        self._of_byte = [0] * 256
        for i, byte in enumerate(_printable_first()):
            self._of_byte[byte] = i
        self._word = functools.lru_cache(_WORDS)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, cleaned and in lower case as the original does, without start and end."""
        ids: list[int] = []
        for word in _regex(_PATTERN).findall(clean(text).lower()):
            ids += self._word(word)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Words with a blank between any two, as the original; what is no character is U+FFFD."""
        written = "".join(self._symbols[i] for i in ids)
        words = (bytes(map(_byte_of().get, word)) for word in written.split("</w>"))
        return b" ".join(words).decode("utf-8", "replace").strip()

    @functools.cached_property
    def _symbols(self) -> list[str]:
        return list(self._ids)

    def token_id(self, token: str) -> int | None:
        """Id of a symbol as the vocabulary writes it; None where there is none."""
        return self._ids.get(token)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in (_START, _END):
            return (self._ids[word],)
        ids = [self._of_byte[byte] for byte in word.encode()]
        ids[-1] += 256
        merged, none = self._merged, (self.vocab_size, 0)
        while len(ids) > 1:
            pair = min(zip(ids, ids[1:], strict=False), key=lambda pair: merged.get(pair, none))
            if pair not in merged:
                break
            ids = _replace(ids, pair, merged[pair][1])
        return tuple(ids)


def _replace(ids: list[int], pair: tuple[int, int], by: int) -> list[int]:
    """`ids` with every occurrence of the pair, from the left, made one."""
    first, second = pair
    out, i, last = [], 0, len(ids) - 1
    while i <= last:
        if ids[i] == first and i < last and ids[i + 1] == second:
            out.append(by)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _read_merges(vocabulary: bytes) -> list[tuple[str, str]]:
    if vocabulary[:2] == b"\x1f\x8b":
        try:
            vocabulary = gzip.decompress(vocabulary)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"it is cut off or damaged ({error})") from None
    try:
        lines = vocabulary.decode().rstrip("\n").split("\n")[1 : _MERGES + 1]
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    merges = [tuple(line.split()) for line in lines]
    for number, merge in enumerate(merges, 2):
        if len(merge) != 2:
            raise ValueError(f"line {number} is not two symbols, but {lines[number - 2][:60]!r}")
    if not merges:
        raise ValueError("it holds no merges")
    return merges


def _printable_first() -> list[int]:
    """All 256 bytes in the order of their ids: those that Latin-1 prints come first."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    return printable + [b for b in range(256) if b not in set(printable)]


def _letters() -> list[str]:
    """What the vocabulary writes for each byte, in the order of ids: itself, or from U+0100 on."""
    bytes_ = _printable_first()
    printable = bytes_.index(0)
    return [chr(b) for b in bytes_[:printable]] + [chr(256 + i) for i in range(256 - printable)]


@functools.cache
def _byte_of() -> dict[str, int]:
    return dict(zip(_letters(), _printable_first(), strict=True))
