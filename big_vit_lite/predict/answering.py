"""What a model says of images, from batches to the outputs: for classify and zero_shot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vit_lite import report
from big_vit_lite.predict import compiled, outputs
from big_vit_lite.predict.counts import Counts
from big_vit_lite.predict.outputs import Answer, Found
from big_vit_lite.predict.reading import Batch, Images


def answer_all(
    answer: compiled.Compiled,
    images: Images,
    names: Sequence[str],
    given: dict[str, Any],
    numbers: tuple[str, ...],
) -> None:
    """Runs all images through the model and hands what it says of each to the outputs.

    Args:
        answer: gives "class", numbers into `names`, and the arrays of `numbers`, the best first.
        numbers: names of what is told of a class.

    Raises:
        InputError, RunError: as `run`.
    """
    counts, display = Counts(len(images)), report.Counting("images")
    columns, widest = ("image", "class", *numbers), (_widest(images.paths), _widest(names))
    # On a terminal the table itself shows how far it is; a bar would be written over.
    shown = given.get("json") == "-" or not sys.stdout.isatty()
    try:
        with outputs.opened(given, "Classes of images", columns, widest) as out:
            for batch, found in compiled.answers(answer, images):
                for place, row in enumerate(batch.rows):
                    out.add(_answer(images.paths[row], place, batch, found, names, numbers))
                left_out = compiled.unreadable(images, batch, display.say)
                counts.add(batch.seen, len(left_out))
                if shown:
                    display.update(counts)
    finally:
        display.close()
    counts.require_some()


def _widest(names: Sequence[str]) -> int:
    return max(map(len, names))


def _answer(
    path: str,
    place: int,
    batch: Batch,
    found: dict[str, np.ndarray],
    names: Sequence[str],
    numbers: Sequence[str],
) -> Answer:
    lines = [
        Found(names[c], {name: float(found[name][place][i]) for name in numbers})
        for i, c in enumerate(found["class"][place].tolist())
    ]
    record = {
        "image": path,
        "best": [{"class": line.name, **line.numbers} for line in lines],
    }
    thumbnail = batch.thumbnails[place] if batch.thumbnails else b""
    return Answer(path, lines, record, thumbnail)
