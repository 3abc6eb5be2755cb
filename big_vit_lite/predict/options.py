"""The options of every command, without JAX, so that --help is quick."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from big_vit_lite.config import Option
from big_vit_lite.weights.known import read_known

TOP = 5
BATCH = 64
"""Images at a time, unless another number is asked for or there are fewer."""


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("wants a whole number from 1 on")
    return int(text)


def _numbers(text: str) -> tuple[float, ...]:
    parts = [part for part in text.strip("()").split(",") if part.strip()]
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError("wants numbers with commas between them, as in 0.5,0.5,0.5")
    return numbers


def _deviations(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if min(numbers) <= 0:
        raise ValueError("wants numbers above 0: pixels are divided by them")
    return numbers


def _one_of(*choices: str) -> Any:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}")
        return text

    return read


def _embeddings(text: str) -> Path:
    """A local .npy or .parquet file; whether it is there is another question."""
    if "://" in text or not text.endswith((".npy", ".parquet")):
        raise ValueError("wants a local file that ends in .npy or .parquet")
    return Path(text).expanduser()


MODEL = (
    Option("transform", "CHAIN", "Of images, in place of what the model's files say, such as "
           "\"decode|resize(224, 'bicubic')\"."),
    Option("mean", "M,M,M", "Mean of each channel, of pixels in [0, 1]; likewise.", _numbers),
    Option("std", "S,S,S", "Standard deviation of each channel; likewise.", _deviations),
    Option("layout", "NAME", "Layout of published weights, where it is not recognised."),
    Option("known", "NAME=VALUE,...", "What the files do not say of the model, such as "
           "activation=quick,heads=12 or \"grid=(14,7)\".", read_known),
)  # fmt: skip
CLASSES = (
    Option("class_names", "NAMES", "Of a classifier's classes, in the order of its logits, where "
           "the model's files do not say them: a published set such as imagenet, a file with one a "
           "line, or \"cat,dog\"."),
)  # fmt: skip
TEXTS = (
    Option("vocabulary", "FILE", "Of the tokenizer, where it does not lie beside the weights: "
           "a tokenizer.json, spiece.model, merges.txt or bpe_simple_vocab_16e6.txt.gz."),
    Option("text", "CHAIN", "The whole transform of texts, such as "
           "\"lower|tokenize('bytes')|truncate(64)|pad(64)\"."),
)  # fmt: skip
READING = (
    Option("batch_size", "N", f"Images at a time on all local devices. Default {BATCH}.", _count),
    Option("threads", "N", "Threads that read and decode. Default: one a core.", _count),
    Option("skip_unreadable", "", "Leaves out images that cannot be read, names and counts them. "
           "Without it the first one ends the command."),
)  # fmt: skip
OUTPUT = (
    Option("json", "FILE", "Takes a JSON object a line, one for each image or query; - is the "
           "standard output, in place of the table. A local file or gs://."),
    Option("html", "FILE", "Takes a page with thumbnails, all in one file."),
)  # fmt: skip
CLASSIFY = (
    Option("top", "K", f"Classes of each image. Default {TOP}.", _count),
    *CLASSES, *OUTPUT, *READING, *MODEL,
)  # fmt: skip
ZERO_SHOT = (
    Option("labels", "LABELS", "Names of the classes: \"cat,dog\" (one: \"cat,\"), a file "
           "with one a line, or a published set such as imagenet.", required=True),
    Option("templates", "TEMPLATES", "What is said of a class: a text with {} for its name "
           "(default \"a photo of a {}.\"), a file with one a line, or a published set such as "
           "openai (80) or simple (7). The features of several are averaged."),
    Option("top", "K", f"Labels of each image. Default {TOP}.", _count),
    *OUTPUT, *READING, *MODEL, *TEXTS,
)  # fmt: skip
EMBED = (
    Option("out", "FILE", "Takes the vectors, of length 1: a .npy, with FILE.paths.txt and "
           "FILE.json beside it, or a .parquet with the columns path and embedding. Run again "
           "after it was stopped, the command goes on where it was.", _embeddings, required=True),
    Option("dtype", "TYPE", "Of the stored numbers: float32 (default) or float16.",
           _one_of("float32", "float16")),
    *READING, *MODEL,
)  # fmt: skip
SIMILAR = (
    Option("embeddings", "FILE", "What is searched: what `embed` wrote, with the same MODEL.",
           _embeddings, required=True),
    Option("query", "TEXT", "What is looked for, in words, of two towers: a text, or a file with "
           "one a line. INPUT may then be left out."),
    Option("top", "K", f"Images for each query. Default {TOP}.", _count),
    Option("index", "INDEX", "exact (default), or faiss:FACTORY, which may miss some, such as "
           "faiss:HNSW32; faiss alone is faiss:Flat. Takes faiss-cpu.", str),
    *OUTPUT, *READING, *MODEL, *TEXTS,
)  # fmt: skip
OF_LOAD = tuple(option.name for option in (*MODEL, *CLASSES, *TEXTS))
"""Options that are arguments of `big_vit_lite.load`, too."""
_ARGUMENT = re.compile(rf"(?<![\w/.-])({'|'.join(OF_LOAD)})=(?=[\s,.:]|$)")
_SET = re.compile(r'(?<![\w/.-])known=\{"(\w+)": ([^{}]*)\}')
_KNOWN = re.compile(r'(?<![\w/.-])(known(?= has ")|class_names(?=: ))')


def as_options(message: str) -> str:
    """An error's text with options in place of `load`'s arguments: --transform for transform=, and
    --known "grid=(rows, columns)" for known={"grid": (rows, columns)}."""
    message = _SET.sub(lambda found: f'--known "{found[1]}={found[2]}"', message)
    return _KNOWN.sub(r"--\1", _ARGUMENT.sub(r"--\1", message))
