"""Features of images and texts by both towers, on the host, each example once."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int, Int32

from big_vit_lite import config, parallel
from big_vit_lite.evals.ranking import fetched

Skipped = Callable[[tuple], None]


class Images(NamedTuple):
    """Features of the images of a stream, in its order, without those that cannot be used."""

    features: Float32[np.ndarray, "n e"]
    index: Int[np.ndarray, " n"]


class Texts(NamedTuple):
    """Features of all captions, those of an image one after the other."""

    features: Float32[np.ndarray, "c e"]
    index: Int[np.ndarray, " c"]  # of the image, as in Images
    number: Int[np.ndarray, " c"]  # among the captions of its image


class Features:
    """The two towers of a task, compiled once for all evaluations that want them.

    What it returns is the same in every process.

    Args:
        task: with encode_image(params, batch) and encode_text(params, tokens), whose rows have
            length 1, and `text`, a data.text.TextTransform.
    """

    def __init__(self, task, mesh: Mesh):
        def encode_image(params, batch):
            features = task.encode_image(params, batch).astype(jnp.float32)
            return {"features": features, "index": batch["index"], "mask": batch["mask"]}

        def encode_text(params, batch):
            features = task.encode_text(params, batch["text"]).astype(jnp.float32)
            return {"features": features, "index": batch["index"], "number": batch["number"]}

        whole = parallel.replicated(mesh)
        self.task, self.mesh = task, mesh
        self._image = jax.jit(encode_image, out_shardings=whole)
        self._text = jax.jit(encode_text, out_shardings=whole)

    def of_images(self, params: Any, stream, skipped: Skipped) -> tuple[Images, list]:
        """Features of all images of `stream`, and the captions that this process has read.

        Raises:
            RunError: as `check_seen`.
        """
        captions: list = []

        def batches() -> Iterator[dict]:
            with jax.set_mesh(self.mesh), stream.iterate(0, len(stream)) as made:
                for batch in made:
                    skipped(made.skipped)
                    captions.extend(batch.pop("captions", ()))
                    yield self._image(params, batch)

        rows = _joined(fetched(batches()))
        check_seen(rows["index"], rows["mask"], stream)
        good = rows["mask"]
        return Images(rows["features"][good], rows["index"][good]), captions

    def of_texts(
        self, params: Any, tokens: Int32[np.ndarray, "n l"], stream
    ) -> Float32[np.ndarray, "n e"]:
        """Features of texts that every process has, in batches laid out as those of `stream`."""
        rows, size = stream.rows(), stream.batch_size

        def batches() -> Iterator[dict]:
            for start in range(0, len(tokens), size):
                places = start + rows
                text = tokens[np.minimum(places, len(tokens) - 1)]
                yield {"text": text, "index": places, "number": places}

        return self._encoded(params, batches(), stream)["features"][: len(tokens)]

    def of_captions(self, params: Any, captions: Sequence, stream) -> Texts:
        """Features of the captions of all processes.

        Args:
            captions: this process's, data.Captions.
        """
        tokens = [text for image in captions for text in image.tokens]
        index = [image.index for image in captions for _ in image.tokens]
        number = [k for image in captions for k in range(len(image.tokens))]
        share = len(stream.rows())
        # Processes have read other numbers of captions and must make the same number of batches.
        count = max(parallel.gather("captions", -(-len(tokens) // share)))
        empty = np.zeros(self.task.text.length, np.int32)

        def batches() -> Iterator[dict]:
            for start in range(0, count * share, share):
                part = slice(start, start + share)
                fill = share - len(tokens[part])
                yield {
                    "text": np.stack([*tokens[part], *itertools.repeat(empty, fill)]),
                    "index": np.array([*index[part], *itertools.repeat(-1, fill)]),
                    "number": np.array([*number[part], *itertools.repeat(-1, fill)]),
                }

        rows = self._encoded(params, batches(), stream)
        kept = np.flatnonzero(rows["index"] >= 0)
        kept = kept[np.lexsort((rows["number"][kept], rows["index"][kept]))]
        return Texts(*(rows[key][kept] for key in Texts._fields))

    def _encoded(self, params: Any, batches: Iterator[dict], stream) -> dict[str, np.ndarray]:
        with jax.set_mesh(self.mesh):
            on_devices = (
                stream.to_devices({k: np.asarray(x, np.int32) for k, x in batch.items()})
                for batch in batches
            )
            return _joined(fetched(self._text(params, batch) for batch in on_devices))


def check_seen(index: np.ndarray, mask: np.ndarray, stream) -> None:
    """Raises RunError unless each example of `stream` was there once, and one can be used."""
    seen = index[index >= 0]
    if len(seen) != stream.examples or len(np.unique(seen)) != len(seen):
        raise config.RunError(
            f"evaluation saw {len(seen)} examples of {stream.examples}; this is a defect of the "
            "input pipeline, please report it."
        )
    if not mask.any():
        raise config.RunError(f"none of the {len(seen)} examples to evaluate can be used.")


def _joined(batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches one after the other."""
    rows = list(batches)
    return {key: np.concatenate([batch[key] for batch in rows]) for key in rows[0]}
