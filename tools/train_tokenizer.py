"""Learns a vocabulary from the captions that a config trains on, and writes it as a tokenizer.json.

    python tools/train_tokenizer.py --config configs/clip_emoji.py:path=DIR --out words.json

Captions are read as data.train and what is mixed into it (data.mix) say, their part and what their
`text` does before `tokenize` included; examples that cannot be read are told of and left out, at
most data.skip_limit of them. They are cut at white space and punctuation. --kind words makes a
token of each word; bpe merges letters to the pieces that are most frequent in them (Sennrich 2016),
so that words never seen have tokens, too; pieces does so with no difference between the end of a
word and its middle, so that the cake of cupcake is cake, and the text operation cut_words can train
such pieces. (Texts are not read back from pieces as they were written: captions that a model makes
want bpe.) Ids 0 to 3 are <pad>, <start>, <end> and <unknown>. In a config the file is
tokenize('words.json'), and text.pad_id=0.
Needs the extra tokenizers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from big_vit_lite import checks, config

SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
KINDS = ("words", "bpe", "pieces")


def kind_of(text: str) -> str:
    """A type of options: one of KINDS."""
    if text not in KINDS:
        raise ValueError(f"wants one of {', '.join(KINDS)}")
    return text


def count_of(text: str) -> int:
    """A type of options: a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError("wants a whole number from 1 on")
    return int(text)


OPTIONS = (
    config.Option("out", "FILE", "The tokenizer.json to write.", Path, required=True),
    config.Option("kind", "KIND", "words (default), bpe or pieces.", kind_of),
    config.Option("size", "N", "Most tokens, special ones included. Default 4096.", count_of),
    config.Option("least", "N", "Rarer words or pairs get no token. Default 1.", count_of),
)


def main(argv: list[str]) -> None:
    line = config.command_line(
        argv,
        program="python tools/train_tokenizer.py",
        about=__doc__,
        options=OPTIONS,
        checks=[check for check in checks.STATIC if check is not checks.paths],
    )
    from big_vit_lite.data import tokenizers

    if not line.run.data.train.text:
        raise config.InputError("data.train.text is empty: the config reads no captions")
    tokenizers.require_libraries("json")
    kind = line.extras.get("kind", "words")
    size, least = line.extras.get("size", 4096), line.extras.get("least", 1)
    learned = learn(captions(line.run.data), kind, size, least)
    out = line.extras["out"]
    out.parent.mkdir(parents=True, exist_ok=True)
    learned.save(str(out))
    tokens = learned.get_vocab_size()
    print(f"{out}: {tokens:,} tokens; text.vocabulary={tokens} or more, text.pad_id=0")


def captions(data: config.Data) -> Iterator[str]:
    """All captions that train, as they come to the tokenizer, with all their words.

    Raises:
        InputError: more examples than data.skip_limit cannot be read.
    """
    import numpy as np

    from big_vit_lite.data import sources, text
    from big_vit_lite.data.sources.base import BadExample

    rng, bad = np.random.default_rng(0), 0
    for split in (data.train, *data.mix.values()):
        # The vocabulary that the config names is the one to be made: it is not there yet.
        operations, _, _ = split.text.partition("tokenize(")
        before = text.parse(f"{operations}tokenize('bytes')|pad(1)").without_noise().before
        source = sources.build(split)
        for i in range(len(source)):
            try:
                found = source[i]["captions"]
            except BadExample as error:
                bad += 1
                if bad > data.skip_limit:
                    raise config.InputError(
                        f"{error}; more than data.skip_limit = {data.skip_limit} examples cannot "
                        "be read"
                    ) from error
                print(f"left out: {error}", file=sys.stderr)
                continue
            for caption in found:
                for op in before:
                    caption = op(caption, rng)
                yield caption


def learn(texts: Iterable[str], kind: str, size: int, least: int) -> Any:
    """A tokenizer of the library `tokenizers` with the vocabulary of `texts`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    common = {
        "vocab_size": size,
        "min_frequency": least,
        "special_tokens": list(SPECIAL),
        "show_progress": False,
    }
    if kind == "words":
        learned = Tokenizer(models.WordLevel(unk_token=SPECIAL[3]))
        trainer = trainers.WordLevelTrainer(**common)
    else:
        mark = {"end_of_word_suffix": "</w>"} if kind == "bpe" else {}
        learned = Tokenizer(models.BPE(unk_token=SPECIAL[3], **mark))
        trainer = trainers.BpeTrainer(**common, **mark)
    learned.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    learned.train_from_iterator(texts, trainer)
    learned.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[1]} $A {SPECIAL[2]}", special_tokens=[(SPECIAL[1], 1), (SPECIAL[2], 2)]
    )
    return learned


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
