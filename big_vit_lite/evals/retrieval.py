"""Retrieval: each image is to find its captions among all, each caption its image among all.

Scores are cosines. Ranks begin with 1. An image's rank is that of the best of its captions, its
other captions not counted; a caption's rank is that of its image (Karpathy and Fei-Fei 2015). What
scores as high as the right one counts as before it: the same image twice in the data, or the same
caption at two images, is a mistake that cannot be avoided, and a constant model is right nowhere.
Of the same caption twice at one image, both are right.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from big_vit_lite import data
from big_vit_lite.evals.features import Features, Images, Texts
from big_vit_lite.evals.ranking import ITEMS, QUERIES, count_ahead

AT = (1, 5, 10)
PAIRS = 65_536  # scores of images and their own captions that are computed at once, in f64


def prepare(setting) -> tuple[Any, "Evaluation"]:
    """The stream and the evaluation of a run's evaluation; see evals.Setting.

    Raises:
        InputError: data without captions, or none that can be read.
    """
    text = setting.task.text
    stream = data.eval_stream(
        setting.split, setting.batch_size, setting.mesh, setting.run.data, setting.where, text
    )
    return stream, Evaluation(setting.shared_features())


class Evaluation:
    """Recall and ranks both ways; see the module."""

    notes: list[str] = []

    def __init__(
        self, features: Features, queries_at_once: int = QUERIES, items_at_once: int = ITEMS
    ):
        self._features, self._blocks = features, (queries_at_once, items_at_once)

    def run(
        self,
        params: Any,
        stream,
        predictions: Path | None = None,
        skipped: Callable[[tuple], None] = lambda found: None,
    ) -> dict[str, float]:
        """Numbers over a stream with all captions of each image.

        Features lie in the memory of every host, and once over all devices; scores exist a block at
        a time.

        Returns:
            image_to_text/r1 (share of images that have one of their captions first), r5, r10,
            median_rank and mean_rank, and text_to_image/... likewise. r5 and r10 are left out where
            there are no more images or captions than that.

        Args:
            predictions: a file that gets a JSON line an image: index, name, the rank of its best
                caption among all and, caption by caption, the rank of the image.
            skipped: gets the examples of each batch that could not be used, because the image or
                its captions are bad or there are none; they count nowhere.

        Raises:
            RunError: as features.check_seen.
        """
        images, captions = self._features.of_images(params, stream, skipped)
        texts = self._features.of_captions(params, captions, stream)
        to_text, to_image = ranks(images, texts, self._features.mesh, *self._blocks)
        if predictions is not None:
            write_predictions(predictions, images, texts, to_text, to_image, stream)
        return summary("image_to_text", to_text, len(to_image)) | summary(
            "text_to_image", to_image, len(to_text)
        )


def ranks(
    images: Images, texts: Texts, mesh, queries_at_once: int = QUERIES, items_at_once: int = ITEMS
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " c"]]:
    """Rank of each image's best caption, and of each caption's image; 1 is the best."""
    order = np.argsort(images.index)
    place = order[np.searchsorted(images.index[order], texts.index)]  # of each caption's image
    own = own_scores(images.features, texts.features, place)
    best = np.full(len(images.index), -np.inf, np.float32)
    with np.errstate(invalid="ignore"):  # of NaN, which stays NaN
        np.maximum.at(best, place, own)
    blocks, everyone = (queries_at_once, items_at_once), np.arange(len(images.index))
    pictures, words = (images.features, everyone), (texts.features, place)
    to_text = count_ahead(mesh, *pictures, best, *words, *blocks)
    to_image = count_ahead(mesh, *words, own, *pictures, *blocks)
    return to_text + 1, to_image + 1


def own_scores(
    images: Float32[np.ndarray, "n e"],
    texts: Float32[np.ndarray, "c e"],
    place: Int[np.ndarray, " c"],
) -> Float32[np.ndarray, " c"]:
    """Cosine of each text with the image at its `place`."""
    parts = [
        np.einsum(
            "ce,ce->c",
            texts[start : start + PAIRS].astype(np.float64),
            images[place[start : start + PAIRS]].astype(np.float64),
        )
        for start in range(0, len(texts), PAIRS)
    ]
    return np.concatenate(parts).astype(np.float32)


def summary(way: str, rank: Int[np.ndarray, " q"], others: int) -> dict[str, float]:
    """Recall at 1, 5 and 10, and median and mean of ranks among `others`."""
    numbers = {f"{way}/r{k}": float((rank <= k).mean()) for k in AT if k == 1 or k < others}
    median, mean = float(np.median(rank)), float(rank.mean())
    return numbers | {f"{way}/median_rank": median, f"{way}/mean_rank": mean}


def write_predictions(
    path: Path, images: Images, texts: Texts, to_text: np.ndarray, to_image: np.ndarray, stream
) -> None:
    """One JSON object an image, in the order of the data set."""
    order = np.argsort(images.index)
    starts = np.searchsorted(texts.index, images.index[order])
    stops = np.searchsorted(texts.index, images.index[order], side="right")
    with path.open("w") as file:
        for i, start, stop in zip(order, starts, stops, strict=True):
            line = {
                "index": int(images.index[i]),
                "name": stream.name_of(int(images.index[i])),
                "image_to_text": int(to_text[i]),
                "text_to_image": to_image[start:stop].tolist(),
            }
            file.write(json.dumps(line) + "\n")
