"""Which text transform published weights were trained with, by the vocabulary that is at hand."""

import re
from pathlib import Path

from big_vit_lite import config, data, weights
from big_vit_lite.config import InputError
from big_vit_lite.data import tokenizers

SENTENCES = {
    # Zhai 2023 and big_vision: without punctuation, in lower case, padded by the end.
    32_000: "canonicalize|tokenize({file!r}, start=False)|truncate({n})|pad({n}, 1)",
    # Tschannen 2025 (SigLIP 2), section 2.1: Gemma's vocabulary, in lower case.
    256_000: "lower|tokenize({file!r}, start=False, end='<eos>')|truncate({n})|pad({n}, 0)",
}
"""SigLIP's transforms, by the size of the vocabulary."""
SIGLIP = (
    "transformers-siglip", "transformers-siglip2", "open-clip-timm", "big-vision-pair",
    "big-vision-naflex",
)  # fmt: skip
BESIDE_SIGLIP = ("spiece.model", "tokenizer.model", "tokenizer.json")
BESIDE_CLIP = ("merges.txt", tokenizers.CLIP_FILE, "tokenizer.json")
_TOKENIZE = re.compile(r"tokenize\(\s*(?:tokenizer\s*=\s*)?(['\"]).*?\1")


def published(loaded: weights.Loaded, vocabulary: str | None) -> str | None:
    """The text transform of published weights; None where it is not known, or wants a vocabulary.

    Args:
        vocabulary: its file; None: one beside the weights, or for CLIP of an installed package.
    """
    text = loaded.sections.text
    if text is None:
        return None
    stated = loaded.text
    if stated:
        found = vocabulary or _beside(loaded.path.parent, BESIDE_CLIP)
        return with_vocabulary(stated, found) if found else stated
    if loaded.layout in SIGLIP and text.vocabulary in SENTENCES:
        found = vocabulary or _beside(loaded.path.parent, BESIDE_SIGLIP)
        return found and SENTENCES[text.vocabulary].format(file=found, n=text.length)
    return None


def with_vocabulary(transform: str, vocabulary: str) -> str:
    """The same transform with another file of the same vocabulary."""
    return _TOKENIZE.sub(lambda _: f"tokenize({vocabulary!r}", transform, count=1)


def parse(transform: str, tower: config.Text, fingerprint: str | None) -> data.text.TextTransform:
    """The transform, without what is drawn at random.

    Args:
        tower: reads its tokens.
        fingerprint: of the vocabulary with which the tower was trained, where that is known.

    Raises:
        InputError: its vocabulary is not there, or it makes tokens that the tower does not know.
    """
    made = data.text.parse(transform).without_chance()
    if fingerprint is not None and made.fingerprint != fingerprint:
        raise InputError(
            f"the checkpoint was trained with the vocabulary {fingerprint[:12]}, and "
            f"{transform!r} reads {made.fingerprint[:12]}: give that file as vocabulary=."
        )
    if made.vocab_size > tower.vocabulary:
        raise InputError(
            f"{transform!r} makes ids below {made.vocab_size:,}, and the text tower knows "
            f"{tower.vocabulary:,}: give the vocabulary it was trained with as vocabulary=."
        )
    read = made.vocab_size - 1 if tower.end_id is None else tower.end_id
    if tower.pool == "end" and made.end_id != read:
        raise InputError(
            f"{transform!r} ends texts with token {made.end_id}, and the text tower reads token "
            f"{read}: give the vocabulary it was trained with as vocabulary=."
        )
    return made


def _beside(folder: Path, names: tuple[str, ...]) -> str | None:
    """A vocabulary beside the weights, the first whose library is installed, or else the first."""
    there = [str(folder / name) for name in names if (folder / name).is_file()]
    for file in there:
        try:
            tokenizers.require(file)
        except ValueError:
            continue
        return file
    return there[0] if there else None
