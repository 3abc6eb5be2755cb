"""Tokenizers by name or file: bytes, CLIP's byte-pair encoding, tokenizer.json, SentencePiece.

| written | is | needs |
|---|---|---|
| bytes | UTF-8 bytes | nothing |
| clip | CLIP's vocabulary, from an installed open_clip_torch or clip package | extra clip |
| FILE.txt, FILE.txt.gz | the same from bpe_simple_vocab_16e6.txt.gz, or a merges.txt | extra clip |
| FILE.json | a tokenizer.json of the library `tokenizers` | extra tokenizers |
| FILE.model | a SentencePiece model (SigLIP, T5, Gemma) | extra sentencepiece |

Files are local or URLs such as gs://bucket/vocabulary.model.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import os
from collections.abc import Sequence
from typing import Any, Protocol

from big_vit_lite.data import files
from big_vit_lite.data.clip_bpe import ClipBPE
from big_vit_lite.data.grammar import WholeFault

CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
_CARRIERS = ("open_clip", "clip")  # packages that ship CLIP's vocabulary; never imported
_EXTRAS = {"clip": ("ftfy", "regex"), "json": ("tokenizers",), "model": ("sentencepiece",)}


class Tokenizer(Protocol):
    """From text to token ids. Any thread may call.

    Attributes:
      vocab_size: ids are below it.
      start, end: ids that may stand before and after a text; empty where there are none.
      adds: whether start and end stand there unless the transform says otherwise.
      pad_id: what pads; None where the vocabulary names nothing for it.
      fingerprint: SHA-256 of the vocabulary file: equal ones give equal ids.
    """

    vocab_size: int
    start: tuple[int, ...]
    end: tuple[int, ...]
    adds: tuple[bool, bool]
    pad_id: int | None
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without start and end."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without start, end and padding, as far as the tokenizer kept it."""

    def token_id(self, token: str) -> int | None:
        """Id of one token as the vocabulary writes it; None where there is none."""


class Bytes:
    """UTF-8 bytes as ids 0 to 255; then padding, start and end. Needs no vocabulary."""

    vocab_size = 259
    pad_id = 256
    start, end = (257,), (258,)
    adds = True, True
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def token_id(self, token: str) -> int | None:
        data = token.encode()
        return data[0] if len(data) == 1 else None


class JsonTokenizer:
    """A tokenizer.json. Start, end and whether they are added are what its post-processor says."""

    def __init__(self, vocabulary: bytes):
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_buffer(vocabulary)
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"it is no tokenizer.json ({files.why(error)})") from None
        padding = self._library.padding
        self._library.no_truncation()
        self._library.no_padding()
        self.fingerprint = hashlib.sha256(vocabulary).hexdigest()
        self.vocab_size = 1 + max(self._library.get_vocab(with_added_tokens=True).values())
        around = self._around()
        special = around.special_tokens_mask
        first = special.index(0) if 0 in special else len(special)
        last = len(special) - special[::-1].index(0) if 0 in special else len(special)
        self.start, self.end = tuple(around.ids[:first]), tuple(around.ids[last:])
        self.adds = bool(self.start), bool(self.end)
        named = (self.token_id(name) for name in ("<pad>", "[PAD]"))
        found = next((i for i in named if i is not None), None)
        self.pad_id = padding["pad_id"] if padding else found

    def _around(self):
        """The encoding of a text of tokens that are not special, whatever the vocabulary knows."""
        tokens = sorted(self._library.get_vocab(with_added_tokens=False).values())
        texts = itertools.chain("a", (self._library.decode([token]) for token in tokens))
        found = (self._library.encode(text) for text in texts)
        return next((x for x in found if 0 in x.special_tokens_mask), self._library.encode("a"))

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        # What is unknown is special as well, and is to be seen.
        return self._library.decode(list(ids), skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        return self._library.token_to_id(token)


class SentencePiece:
    """A SentencePiece model. An end is added unless the transform says otherwise, a start is not,
    as T5 and SigLIP do."""

    adds = False, True

    def __init__(self, vocabulary: bytes):
        from sentencepiece import SentencePieceProcessor

        try:
            self._library = SentencePieceProcessor(model_proto=vocabulary)
            self.vocab_size = self._library.get_piece_size()
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"it is no SentencePiece model ({files.why(error)})") from None
        if not self.vocab_size:
            raise ValueError("it is no SentencePiece model (it has no pieces)")
        self.fingerprint = hashlib.sha256(vocabulary).hexdigest()
        start, end, pad = (
            i if i >= 0 else None
            for i in (self._library.bos_id(), self._library.eos_id(), self._library.pad_id())
        )
        self.start = () if start is None else (start,)
        self.end = () if end is None else (end,)
        self.adds = False, bool(self.end)
        self.pad_id = pad

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._library.decode(list(ids))

    def token_id(self, token: str) -> int | None:
        found = self._library.piece_to_id(token)
        return found if self._library.id_to_piece(found) == token else None


def require(name: Any) -> None:
    """What `name` needs is there: its library, its file.

    Raises:
      ValueError: it is not, or it is no tokenizer; says what to do.
    """
    require_name(name)
    if name == "bytes":
        return
    require_libraries(_kind(name))
    if name == "clip":
        _carried()
    elif not files.is_url(name) and not files.is_file(files.normal(name)):
        raise WholeFault(f"{name} is not there; name the vocabulary's file")


def require_name(name: Any) -> None:
    """`name` says which tokenizer is meant; nothing need be there.

    Raises:
      ValueError: it does not.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"a tokenizer is bytes, clip or a file, not {name!r}")
    if name != "bytes":
        _kind(name)


def require_libraries(kind: str) -> None:
    """The libraries of the extra for tokenizers of this kind (clip, json, model) are installed."""
    missing = [lib for lib in _EXTRAS[kind] if importlib.util.find_spec(lib) is None]
    if missing:
        extra = {"json": "tokenizers", "model": "sentencepiece"}.get(kind, kind)
        raise WholeFault(
            f'{" and ".join(missing)} must be installed for it: pip install "big_vit_lite[{extra}]"'
        )


@functools.lru_cache(16)
def load(name: str) -> Tokenizer:
    """The tokenizer that `name` says (see this file's table); one for each process.

    Raises:
      ValueError: it is not there or cannot be read; names the file and says what to do.
    """
    require(name)
    if name == "bytes":
        return Bytes()
    kinds = {"clip": ClipBPE, "json": JsonTokenizer, "model": SentencePiece}
    path = _carried() if name == "clip" else files.normal(name)
    try:
        return kinds[_kind(name)](files.read(path))
    except OSError as error:
        raise WholeFault(f"the vocabulary {path} cannot be read ({files.why(error)})") from None
    except ValueError as error:
        raise WholeFault(f"the vocabulary {path} cannot be used: {error}") from None


def _kind(name: str) -> str:
    if name == "clip" or name.endswith((".txt", ".txt.gz")):
        return "clip"
    if name.endswith(".json"):
        return "json"
    if name.endswith((".model", ".spm")):
        return "model"
    raise ValueError(
        f"{name!r} is no tokenizer: there are bytes, clip, and files that end in .txt.gz (CLIP), "
        ".json (tokenizers) or .model (SentencePiece)"
    )


def _carried() -> str:
    """CLIP's vocabulary in an installed package, which is found but not imported."""
    for package in _CARRIERS:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = os.path.join(folder, CLIP_FILE)
            if os.path.isfile(path):
                return path
    raise WholeFault(
        f"clip: no installed package carries {CLIP_FILE}; pip install --no-deps open_clip_torch "
        f"(1.5 MB), or name the file: tokenize('DIR/{CLIP_FILE}')"
    )
