"""Text transforms as text: which operations there are, and what a chain of them makes.

    tokenize('clip')|truncate(77)|pad(77)                              CLIP
    canonicalize|tokenize('FILE.model')|truncate(64)|pad(64, 1)        SigLIP, as big_vision

A chain is text operations, tokenize once, then truncate and pad; it ends in pad, so that all
captions are equally long. The text is all that must be stored to make it again, beside the
fingerprint of the vocabulary it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int32

from big_vit_lite.config import InputError
from big_vit_lite.data import tokenizers
from big_vit_lite.data.grammar import Grammar
from big_vit_lite.data.text.ops import (
    Canonicalize,
    Clean,
    CutWords,
    DropWords,
    Lower,
    Pad,
    Template,
    TextOp,
    Tokenize,
    Truncate,
)

OPS: Mapping[str, type] = {
    "lower": Lower,
    "canonicalize": Canonicalize,
    "clean": Clean,
    "template": Template,
    "drop_words": DropWords,
    "cut_words": CutWords,
    "tokenize": Tokenize,
    "truncate": Truncate,
    "pad": Pad,
}
_CHAIN = "lower|tokenize('bytes')|truncate(64)|pad(64)"
GRAMMAR = Grammar(OPS, chain=_CHAIN, single="lower or pad(64)")


@dataclass(frozen=True)
class TextTransform:
    """From a caption to token ids; equal arguments and generators give equal ones. Any thread and,
    pickled, any process may call.

    Attributes:
      text: what it was parsed from.
      before, after: operations on the caption, and on its tokens; the last pads.
    """

    text: str
    before: tuple[TextOp, ...]
    tokenize: Tokenize
    after: tuple[Truncate | Pad, ...]

    def __call__(self, caption: str, rng: np.random.Generator) -> Int32[np.ndarray, " length"]:
        if not caption.isascii():
            caption = _whole(caption)
        for op in self.before:
            caption = op(caption, rng)
        tokens = self.tokenize(caption)
        for op in self.after:
            tokens = op(tokens, self.tokenize)
        return np.array(tokens, np.int32)

    def caption(self, tokens: Sequence[int]) -> str:
        """The text of tokens as they stand in a batch, without start, end and padding."""
        ids = [int(token) for token in tokens]
        start, end = map(list, self.tokenize.around())
        while ids and ids[-1] == self.pad_id:
            ids.pop()
        if end and ids[-len(end) :] == end:
            del ids[-len(end) :]
        if start and ids[: len(start)] == start:
            del ids[: len(start)]
        return self.tokenize.loaded().decode(ids)

    def without_chance(self) -> TextTransform:
        """The same with all words, and the first of several templates, not one at random."""
        first = (
            Template(op.templates[0]) if isinstance(op, Template) else op
            for op in self.before
            if not isinstance(op, DropWords | CutWords)
        )
        return self._with(tuple(first))

    def without_noise(self) -> TextTransform:
        """The same with all words, and of several templates still one at random."""
        noise = (DropWords, CutWords)
        return self._with(tuple(op for op in self.before if not isinstance(op, noise)))

    def without_templates(self) -> TextTransform:
        """The same for texts that have been put into templates already, such as prompts."""
        skipped = (Template, DropWords, CutWords)
        return self._with(tuple(op for op in self.before if not isinstance(op, skipped)))

    def _with(self, before: tuple[TextOp, ...]) -> TextTransform:
        return TextTransform(self.text, before, self.tokenize, self.after)

    @property
    def length(self) -> int:
        """Tokens of every result."""
        return self.after[-1].n

    @property
    def vocab_size(self) -> int:
        """All ids are below it."""
        return self.tokenize.loaded().vocab_size

    @property
    def start_id(self) -> int | None:
        """What stands before each caption; None where nothing does."""
        start, _ = self.tokenize.around()
        return start[0] if start else None

    @property
    def end_id(self) -> int | None:
        """What stands after each caption; None where nothing does."""
        _, end = self.tokenize.around()
        return end[-1] if end else None

    @property
    def pad_id(self) -> int:
        """What fills up."""
        return self.after[-1].fill(self.tokenize)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary's file, or the name of a tokenizer without one."""
        return self.tokenize.loaded().fingerprint


def parse(text: str, where: str = "text") -> TextTransform:
    """The transform that `text` describes, with its vocabulary loaded.

    Raises:
      InputError: with every fault of the text in one sentence each, or saying why the vocabulary
        cannot be used.
    """
    ops, faults = _read(text)
    if not faults:
        at = _places(ops)[0]
        made = TextTransform(text, tuple(ops[:at]), ops[at], tuple(ops[at + 1 :]))
        try:
            made.tokenize.around()
            for op in made.after:
                if isinstance(op, Pad):
                    op.fill(made.tokenize)
            return made
        except ValueError as error:
            faults = [str(error)]
    raise InputError(f"{where} {text!r}: {'; '.join(faults)}")


def same_reading(one: str, other: str) -> bool:
    """Whether two chains make the same tokens of a caption, but for what they draw at random and
    where their vocabularies lie; what those hold is for fingerprints to tell."""

    def fixed(text: str) -> list[Any]:
        ops = [op for op in _read(text)[0] if not isinstance(op, DropWords | CutWords)]
        return [replace(op, tokenizer="bytes") if isinstance(op, Tokenize) else op for op in ops]

    return fixed(one) == fixed(other)


def length(text: str) -> int:
    """Tokens of every result, without reading a vocabulary.

    Raises:
      InputError: as parse.
    """
    ops, faults = _read(text)
    if faults:
        raise InputError(f"text {text!r}: {'; '.join(faults)}")
    return ops[-1].n


def check(text: str) -> list[str]:
    """Faults of the text, one sentence each; whether its vocabulary is there says `missing`."""
    return _read(text)[1]


def missing(text: str) -> str | None:
    """Why the vocabulary of a faultless text cannot be read here, if it cannot."""
    ops, _ = _read(text)
    for op in ops:
        if isinstance(op, Tokenize):
            try:
                tokenizers.require(op.tokenizer)
            except ValueError as error:
                return f"tokenize: {error}"
    return None


def _read(text: str) -> tuple[list[Any], list[str]]:
    ops, faults = GRAMMAR.read(text)
    return ops, faults or _order_faults(ops)


def _places(ops: list[Any]) -> list[int]:
    """Where tokenize stands."""
    return [i for i, op in enumerate(ops) if isinstance(op, Tokenize)]


def _order_faults(ops: list[Any]) -> list[str]:
    at = _places(ops)
    if len(at) != 1:
        wanted = "tokenize comes once" if at else "tokenize is missing"
        return [f"{wanted}; write for example {_CHAIN}"]
    faults = []
    for i, op in enumerate(ops):
        name, of_text = GRAMMAR.name_of(op), isinstance(op, TextOp)
        if of_text and i > at[0]:
            faults.append(f"{name} is for text; put it before tokenize")
        if not of_text and i < at[0]:
            faults.append(f"{name} is for tokens; put it after tokenize")
    if not faults and not isinstance(ops[-1], Pad):
        faults.append("captions must be equally long; end with pad(64)")
    lengths = [op.n for op in ops if isinstance(op, Truncate)]
    if not faults and lengths and min(lengths) > ops[-1].n:
        faults.append(f"truncate leaves {min(lengths)} tokens, more than pad({ops[-1].n}) takes")
    return faults


def _whole(text: str) -> str:
    """Halves of a character that JSON may hold joined, or replaced by U+FFFD where alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
