"""Operations on captions before they are tokens, and on tokens after."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

import numpy as np

from big_vit_lite.data import tokenizers
from big_vit_lite.data.grammar import WholeFault
from big_vit_lite.data.transforms.op import require_count, require_number, shown

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextFault(ValueError):
    """A caption that an operation cannot take; the stream adds which example it was."""


@dataclass(frozen=True)
class TextOp:
    """A step from text to text. Arguments are checked when it is made (ValueError)."""

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Lower(TextOp):
    """In lower case, in every script."""

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        return text.lower()


@dataclass(frozen=True)
class Canonicalize(TextOp):
    """ "_" read as a blank, ASCII punctuation dropped, lower case, white space squeezed (SigLIP).

    `keep` is a text that stays although it is punctuation, such as '{}' before a template.
    """

    keep: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.keep, str):
            raise ValueError(f"keep is a text, not {shown(self.keep)}")

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        text = text.replace("_", " ")
        parts = text.split(self.keep) if self.keep else [text]
        text = self.keep.join(part.translate(_PUNCTUATION) for part in parts)
        return re.sub(r"\s+", " ", text.lower()).strip()


@dataclass(frozen=True)
class Clean(TextOp):
    """Broken encodings mended, HTML entities read, white space squeezed, as CLIP does.

    tokenize('clip') does it by itself. Needs the extra clip.
    """

    def __post_init__(self) -> None:
        tokenizers.require_libraries("clip")

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        from big_vit_lite.data.clip_bpe import clean

        return clean(text)


@dataclass(frozen=True, init=False)
class Template(TextOp):
    """The caption in place of {}: template('a photo of a {}'). Of several, one at random."""

    templates: tuple[str, ...]

    def __init__(self, *templates: str):
        if not templates:
            raise ValueError("give at least one text with {} in it")
        for template in templates:
            if not isinstance(template, str) or "{}" not in template:
                raise ValueError(f"a template is a text with {{}} in it, not {shown(template)}")
        object.__setattr__(self, "templates", templates)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        n = len(self.templates)
        template = self.templates[0 if n == 1 else int(rng.random() * n)]
        return template.replace("{}", text)


@dataclass(frozen=True)
class DropWords(TextOp):
    """Each word left out with probability `p` (Wei and Zou 2019); evaluation leaves none out.

    Of a text that would lose all its words one stays. White space is squeezed.
    """

    p: float

    def __post_init__(self) -> None:
        require_number(self.p, "p", 0.0, 1.0)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        if not words:
            return text
        drawn = rng.random(len(words))
        kept = [word for word, chance in zip(words, drawn, strict=True) if chance >= self.p]
        return " ".join(kept or [words[int(drawn.argmax())]])


@dataclass(frozen=True)
class CutWords(TextOp):
    """Each word of four letters or more cut in two with probability `p`, at a random place that
    leaves two letters on either side; evaluation cuts none.

    Subword regularisation (Kudo 2018; Provilkov 2020, BPE-dropout) for any tokenizer whose pieces
    are the same at the start and in the middle of a word: pieces of known words are trained, so
    that words never seen, which are made of them, mean something.
    """

    p: float

    def __post_init__(self) -> None:
        require_number(self.p, "p", 0.0, 1.0)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        drawn = rng.random((len(words), 2))
        made = []
        for word, (chance, where) in zip(words, drawn, strict=True):
            if chance < self.p and len(word) >= 4:
                at = 2 + int(where * (len(word) - 3))
                made += [word[:at], word[at:]]
            else:
                made.append(word)
        return " ".join(made)


@dataclass(frozen=True)
class Tokenize:
    """The text as token ids of a tokenizer, which data/tokenizers.py names.

    `start` and `end` say whether tokens stand before and after the text: True or False, a token as
    the vocabulary writes it ('<eos>'), or None for what the tokenizer usually does.
    """

    tokenizer: str
    start: bool | str | None = None
    end: bool | str | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not isinstance(getattr(self, name), bool | str | None):
                raise ValueError(
                    f"{name} is True, False, a token or None, not {shown(getattr(self, name))}"
                )
        tokenizers.require_name(self.tokenizer)

    def __call__(self, text: str) -> list[int]:
        start, end = self.around()
        return [*start, *self.loaded().encode(text), *end]

    def loaded(self) -> tokenizers.Tokenizer:
        return tokenizers.load(self.tokenizer)

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that stand before and after each text.

        Raises:
          ValueError: the vocabulary has no such token.
        """
        loaded = self.loaded()
        before, after = loaded.adds
        return self._ids("start", loaded.start, before), self._ids("end", loaded.end, after)

    def id_of(self, token: str) -> int:
        """Id of a token as the vocabulary writes it.

        Raises:
          ValueError: it has none.
        """
        found = self.loaded().token_id(token)
        if found is None:
            raise WholeFault(f"tokenize: {self.tokenizer} has no token {shown(token)}")
        return found

    def _ids(self, name: str, usual: tuple[int, ...], added: bool) -> tuple[int, ...]:
        wanted = getattr(self, name)
        if isinstance(wanted, str):
            return (self.id_of(wanted),)
        if wanted and not usual:
            raise WholeFault(f"tokenize: {self.tokenizer} has no {name} token; give it as text")
        return usual if (added if wanted is None else wanted) else ()


@dataclass(frozen=True)
class Truncate:
    """At most the first `n` tokens; of a text that was longer the last of them is the end token,
    where one was added, unless keep_end=False."""

    n: int
    keep_end: bool = True

    def __post_init__(self) -> None:
        require_count(self.n, "n", 1)
        if not isinstance(self.keep_end, bool):
            raise ValueError(f"keep_end is True or False, not {shown(self.keep_end)}")

    def __call__(self, tokens: list[int], made_by: Tokenize) -> list[int]:
        if len(tokens) <= self.n:
            return tokens
        end = made_by.around()[1][-self.n :] if self.keep_end else ()
        return [*tokens[: self.n - len(end)], *end]


@dataclass(frozen=True)
class Pad:
    """Filled up to `n` tokens with the tokenizer's padding, or with `id`, a number or a token.

    Longer texts are refused; put truncate(n) before it.
    """

    n: int
    id: int | str | None = None

    def __post_init__(self) -> None:
        require_count(self.n, "n", 1)
        if not isinstance(self.id, str | None):
            require_count(self.id, "id")

    def __call__(self, tokens: list[int], made_by: Tokenize) -> list[int]:
        if len(tokens) > self.n:
            raise TextFault(
                f"the caption has {len(tokens)} tokens, more than pad({self.n}) takes; "
                f"put truncate({self.n}) before it"
            )
        return tokens + [self.fill(made_by)] * (self.n - len(tokens))

    def fill(self, made_by: Tokenize) -> int:
        """The id that pads.

        Raises:
          ValueError: there is none, or it is not in the vocabulary.
        """
        if isinstance(self.id, str):
            return made_by.id_of(self.id)
        name, loaded = made_by.tokenizer, made_by.loaded()
        found = loaded.pad_id if self.id is None else self.id
        if found is None:
            raise WholeFault(f"pad: {name} names no token for padding; write pad({self.n}, ID)")
        if found >= loaded.vocab_size:
            raise WholeFault(f"pad: {found} is no token of {name}, which has {loaded.vocab_size}")
        return found
