"""Text transforms as text: which operations there are, and what a chain of them makes.

    clean|canonicalize|tokenize('c4_en.model')|truncate(64)|pad(64, 1)      SigLIP
    tokenize('clip')|truncate(77)|pad(77)                                   CLIP

A chain is text operations, tokenize once, then truncate and pad; it ends in pad, so that all
captions are equally long. `Transform.text` is all that must be stored to make it again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from big_vit_lite.config import InputError
from big_vit_lite.data.grammar import Grammar
from big_vit_lite.data.text.ops import (
    Canonicalize,
    Clean,
    Lower,
    Pad,
    Template,
    TextOp,
    Tokenize,
    Truncate,
)
from big_vit_lite.data.transforms.op import shown

OPS: Mapping[str, type] = {
    "lower": Lower,
    "canonicalize": Canonicalize,
    "clean": Clean,
    "template": Template,
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
      text: the text it was made of.
      length: tokens of every result.
      vocab_size: ids are below it.
      start_id, end_id: what stands before and after each caption; None where nothing does.
      pad_id: what fills up.
      fingerprint: SHA-256 of the vocabulary's file, or the name of a tokenizer without one.
    """

    text: str
    ops: tuple[Any, ...]

    def __call__(self, caption: str, rng: np.random.Generator) -> Int32[np.ndarray, " length"]:
        if not caption.isascii():
            caption = _whole(caption)
        start, end = self._around
        tokens: list[int] = []
        for op in self.ops:
            if isinstance(op, TextOp):
                caption = op(caption, rng)
            elif isinstance(op, Tokenize):
                tokens = [*start, *op.loaded().encode(caption), *end]
            elif isinstance(op, Truncate):
                tokens = op(tokens, end)
            else:
                tokens = op(tokens, op.fill(self._tokenizer, self._tokenize.tokenizer))
        return np.array(tokens, np.int32)

    @property
    def length(self) -> int:
        return self.ops[-1].n

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    @property
    def start_id(self) -> int | None:
        return self._around[0][0] if self._around[0] else None

    @property
    def end_id(self) -> int | None:
        return self._around[1][-1] if self._around[1] else None

    @property
    def pad_id(self) -> int:
        return self.ops[-1].fill(self._tokenizer, self._tokenize.tokenizer)

    @property
    def fingerprint(self) -> str:
        return self._tokenizer.fingerprint

    @property
    def _tokenize(self) -> Tokenize:
        return next(op for op in self.ops if isinstance(op, Tokenize))

    @property
    def _tokenizer(self) -> Any:
        return self._tokenize.loaded()

    @functools.cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self._tokenize.around()


def parse(text: str, where: str = "text") -> TextTransform:
    """The transform that `text` describes, with its vocabulary loaded.

    Raises:
      InputError: with every fault of the text in one sentence each, or saying why the vocabulary
        cannot be used.
    """
    ops, faults = _read(text)
    if not faults:
        made = TextTransform(text, tuple(ops))
        try:
            tokenizer = made._tokenizer
            made._around  # noqa: B018: reads the vocabulary
            for op in ops:
                if isinstance(op, Pad):
                    op.fill(tokenizer, made._tokenize.tokenizer)
        except ValueError as error:
            faults = [str(error)]
    if faults:
        raise InputError(f"{where} {text!r}: {'; '.join(faults)}")
    return made


def check(text: str) -> list[str]:
    """Faults of the text, one sentence each, without reading a vocabulary."""
    return _read(text)[1]


def _read(text: str) -> tuple[list[Any], list[str]]:
    ops, faults = GRAMMAR.read(text)
    return ops, faults or _order_faults(ops)


def _order_faults(ops: list[Any]) -> list[str]:
    at = [i for i, op in enumerate(ops) if isinstance(op, Tokenize)]
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
