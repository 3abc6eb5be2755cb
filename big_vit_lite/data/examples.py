"""Rows of a source as arrays: read, decoded once, augmented by a generator of their own."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data.order import AUGMENT, REPLACE
from big_vit_lite.data.sources.base import BadExample, Example, Source
from big_vit_lite.data.text import TextFault
from big_vit_lite.data.transforms import Transform
from big_vit_lite.data.transforms.op import Image, ImageFault

DECODED_BYTES = 1 << 30  # data sets whose decoded images fit are decoded once, not once an epoch
TRIES = 16  # replacements of one bad example before the data is given up
CAPTIONS = "captions"  # key of all captions of an example, of which each may have another number


class Skipped(NamedTuple):
    """An example that could not be used: its name and why."""

    name: str
    fault: str


class Draws:
    """A numpy Philox generator at the stream of one (seed, row, visit).

    One generator is put at a new counter for every example, which costs a tenth of making one.
    Streams of different rows and visits lie 2**64 draws apart.
    """

    def __init__(self, seed: int):
        key = np.random.SeedSequence([seed, AUGMENT]).generate_state(2, np.uint64)
        self._bits = np.random.Philox(key=key)
        self._start = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, row: int, visit: int) -> np.random.Generator:
        self._start["state"]["counter"][:] = (0, row, visit, 0)
        self._bits.state = self._start
        return self._generator


class Examples:
    """Transformed examples of a source: a pure function of (seed, row, visit), from any thread.

    Args:
      text: tokens of a caption, for sources that give captions; has `length`.
      captions: which caption is taken: random, each (in turn from visit to visit) or first; or
        "all": examples hold the tokens of all of them, (captions, length), under "captions".

    Attributes:
      keys: shape and dtype of what an example holds, by key of the batch; without "captions", whose
        number differs.
      every_caption: whether examples hold "captions".

    Raises:
      InputError: examples of different shapes leave the transform.
      BadExample: none of the first examples can be used.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int,
        decoded_bytes: int = DECODED_BYTES,
        text: Any = None,
        captions: str = "random",
    ):
        self.source, self.seed, self.text = source, seed, text
        self._transform, self._captions = transform, captions
        self.every_caption = text is not None and captions == "all"
        self._kept = _Kept(len(source), decoded_bytes) if transform.decodes else None
        self.keys: dict[str, tuple[tuple[int, ...], Any]] = {}
        first = self._first()
        self.keys = {k: (np.shape(v), _dtype(v)) for k, v in first.items() if k != CAPTIONS}

    def __len__(self) -> int:
        return len(self.source)

    def _first(self) -> dict[str, Any]:
        """The first example that can be used, for its shapes."""
        draws, last = Draws(self.seed), min(TRIES, len(self)) - 1
        for i in range(last + 1):
            try:
                return self.example(i, 0, draws)
            except BadExample:
                if i == last:
                    raise
        raise AssertionError("sources are not empty")

    def example(self, i: int, visit: int, draws: Draws) -> dict[str, Any]:
        """Arrays of example `i`, and its label as a number.

        Raises:
          BadExample: it cannot be read or transformed; names its file or row.
        """
        rng = draws.at(self.source.row_of(i), visit)
        try:
            example, image = self._image(i, rng)
            made = image if isinstance(image, dict) else {"image": image}
            if self.every_caption:
                tokens = [self.text(caption, rng) for caption in example["captions"]]
                made[CAPTIONS] = np.stack(tokens)
            elif self.text is not None:
                captions = example["captions"]
                made["text"] = self.text(captions[self._which(len(captions), visit, rng)], rng)
        except (InputError, RunError):
            raise
        except (ImageFault, TextFault) as error:
            raise BadExample(
                f"{self.source.name_of(i)}: {error}; repair it or take it out of the data"
            ) from error
        except Exception as error:
            raise BadExample(
                f"{self.source.name_of(i)}: {type(error).__name__}: {error}; repair it or take it "
                "out of the data"
            ) from error
        if "label" in example:
            made["label"] = example["label"]
        self._check(i, made)
        return made

    def replacement(self, i: int, attempt: int) -> int:
        """The example that stands in for a bad one: a function of the seed and `i` alone."""
        key = [self.seed, REPLACE, self.source.row_of(i), attempt]
        word = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        return int(word % np.uint64(len(self)))

    def _which(self, captions: int, visit: int, rng: np.random.Generator) -> int:
        if captions == 1 or self._captions == "first":
            return 0
        return visit % captions if self._captions == "each" else int(rng.random() * captions)

    def _check(self, i: int, made: dict[str, Any]) -> None:
        """Raises InputError unless the arrays are of the shapes of all others."""
        for key, value in made.items():
            if isinstance(value, bytes | str):
                raise InputError(
                    f"{self.source.name_of(i)}: the image is stored as bytes; "
                    "begin the transform with decode"
                )
            if key in self.keys and np.shape(value) != self.keys[key][0]:
                shape = self.keys[key][0]
                raise InputError(
                    f"{self.source.name_of(i)}: the transform makes an {key} of shape "
                    f"{np.shape(value)}, and {shape} of others; end it with an operation that "
                    f"fixes the size, such as to_size({shape[0] if shape else 224})"
                )

    def _image(self, i: int, rng: np.random.Generator) -> tuple[Example, Any]:
        """The example as stored, without its image, and what the transform makes of that."""
        if self._kept is None or self._kept.given_up:
            example = self.source[i]
            return example, self._transform(example["image"], rng)
        kept = self._kept.get(i)
        if kept is None:
            example = self.source[i]
            kept = example, self._transform.ops[0](example.pop("image"), rng)
            self._kept.put(i, kept)
        image = kept[1]
        for op in self._transform.ops[1:]:
            image = op(image, rng)
        return kept[0], image


def _dtype(value: Any) -> np.dtype:
    return value.dtype if isinstance(value, np.ndarray) else np.dtype(np.int32)


class _Kept:
    """Decoded images in memory, all of them or none: a data set that will not fit is let go."""

    def __init__(self, n: int, limit: int):
        self._n, self._limit, self._bytes = n, limit, 0
        self._images: dict[int, tuple[Example, Image]] | None = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {"_n": self._n, "_limit": self._limit}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["_n"], state["_limit"])

    @property
    def given_up(self) -> bool:
        return self._images is None

    def get(self, i: int) -> tuple[Example, Image] | None:
        images = self._images
        return None if images is None else images.get(i)

    def put(self, i: int, example: tuple[Example, Image]) -> None:
        with self._lock:
            if self._images is None or i in self._images:
                return
            example[1].flags.writeable = False
            self._images[i] = example
            self._bytes += example[1].nbytes
            if self._bytes / len(self._images) * self._n > self._limit:
                self._images = None
