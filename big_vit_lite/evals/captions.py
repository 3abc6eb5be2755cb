"""Captions: how well a caption decoder predicts those of the data, and what it writes itself.

Every caption of every image is read token by token: with p the probability of each token given the
image and the tokens before it, nll is the mean of -log p over all tokens of all captions, and
perplexity exp(nll). The first token, which starts a text, is given; the one that ends it counts;
padding is no token. Both depend on the vocabulary: models with other ones cannot be compared.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int, Int32

from big_vit_lite import config, data, parallel
from big_vit_lite.evals.features import check_seen
from big_vit_lite.evals.ranking import fetched


def prepare(setting) -> tuple[Any, "Evaluation"]:
    """The stream and the evaluation of a run's evaluation; see evals.Setting.

    Raises:
        InputError: data without captions, none that can be read, or texts without an end where
            captions are to be written.
    """
    text, key = setting.task.text, f"evals.{setting.name}"
    if setting.options.predictions:
        check_ends(text, key)
    stream = data.eval_stream(
        setting.split, setting.batch_size, setting.mesh, setting.run.data, setting.where, text
    )
    compiled = setting.shared("captions", lambda: Compiled(setting.task, setting.mesh))
    return stream, Evaluation(compiled, setting.options.beams, key)


def check_ends(text: data.text.TextTransform, key: str) -> None:
    """Raises InputError unless a text that is written has a beginning and an end."""
    missing = [name for name, i in (("start", text.start_id), ("end", text.end_id)) if i is None]
    if missing:
        raise config.InputError(
            f"{key}.predictions writes captions, and data.train.text adds no {missing[0]} token to "
            f"know where they {missing[0]}: write tokenize(..., {missing[0]}=True), or set "
            "predictions=False."
        )
    if text.pad_id == text.end_id:
        raise config.InputError(
            f"{key}.predictions writes captions, and token {text.end_id} of data.train.text both "
            "ends and pads them: give padding another, as in pad(64, 0), or set predictions=False."
        )


class Captions(NamedTuple):
    """All captions of all images, those of an image one after the other."""

    nll: Float32[np.ndarray, " c"]  # in nats, of the whole caption
    tokens: Float32[np.ndarray, " c"]  # how many were predicted
    text: Int32[np.ndarray, "c l"]
    index: Int[np.ndarray, " c"]  # of the image
    number: Int[np.ndarray, " c"]  # among the captions of its image


class Written(NamedTuple):
    """What was written about each image."""

    text: Int32[np.ndarray, "n l"]
    log_probability: Float32[np.ndarray, " n"]


class Compiled:
    """The functions of a task's decoder, compiled once for all evaluations that want them.

    What they return but for image tokens is the same in every process.

    Args:
        task: with image_tokens, caption_nll and write, see tasks.CocaTask, and `text`.
    """

    def __init__(self, task, mesh: Mesh):
        def look(params, batch):
            seen = {name: batch[name] for name in ("index", "mask")}
            return seen, task.image_tokens(params, batch)

        def read(params, image_tokens, batch):
            found = task.caption_nll(params, image_tokens, batch["text"])
            return batch | {"nll": found["caption_nll"], "tokens": found["caption_tokens"]}

        def write(params, batch, beams):
            text, log_probability = task.write(params, batch, beams)
            return {"text": text, "log_probability": log_probability}

        whole = parallel.replicated(mesh)
        self.task, self.mesh = task, mesh
        self.look = jax.jit(look, out_shardings=(whole, parallel.batch_sharding(mesh)))
        self.read = jax.jit(read, out_shardings=whole)
        self.write = jax.jit(write, out_shardings=whole, static_argnames="beams")


class Evaluation:
    """Likelihood of captions, and captions; see the module.

    Args:
        key: the evaluation's section in the config, for error texts.
    """

    notes: list[str] = []

    def __init__(self, compiled: Compiled, beams: int, key: str):
        self._compiled, self._beams, self._key = compiled, beams, key

    def run(
        self,
        params: Any,
        stream,
        predictions: Path | None = None,
        skipped: Callable[[tuple], None] = lambda found: None,
    ) -> dict[str, float]:
        """nll, perplexity and, where captions are written, exact: the share of images whose caption
        is one of theirs in the data, letter by letter.

        Args:
            predictions: a file that gets a JSON line an image: index, name, the caption that was
                written and its log_probability, whether it is exact, the captions of the data as
                the text tower read them (references), and nll of each, by token.
            skipped: gets the examples of each batch that could not be used, because the image or
                its captions are bad or there are none; they count nowhere.

        Raises:
            InputError: captions are to be written, and texts have no end.
            RunError: as features.check_seen.
        """
        # Of several processes only the first has a file, and all write.
        writes = any(parallel.gather("captions written", predictions is not None))
        if writes:
            check_ends(self._compiled.task.text, self._key)
        batches = list(fetched(self._batches(params, stream, skipped, writes)))
        index, mask = (
            np.concatenate([batch["seen"][name] for batch in batches]) for name in ("index", "mask")
        )
        check_seen(index, mask, stream)
        captions = _sorted([part for batch in batches for part in batch["read"]])
        tokens = captions.tokens.sum(dtype=np.float64)
        nll = float(captions.nll.sum(dtype=np.float64) / tokens)
        numbers = {"nll": nll, "perplexity": float(np.exp(nll))}
        if writes:
            written = Written(
                *(np.concatenate([b["written"][name] for b in batches]) for name in Written._fields)
            )
            lines = self._lines(index, mask, captions, written, stream)
            numbers["exact"] = float(np.mean([line["exact"] for line in lines]))
            if predictions is not None:
                with predictions.open("w") as file:
                    file.writelines(json.dumps(line) + "\n" for line in lines)
        return numbers

    def _batches(self, params: Any, stream, skipped: Callable, writes: bool) -> Iterator[dict]:
        """Of each batch what was seen, its captions read in rounds, one caption an image, and what
        was written."""
        compiled = self._compiled
        with jax.set_mesh(compiled.mesh), stream.iterate(0, len(stream)) as made:
            for i, batch in enumerate(made):
                skipped(made.skipped)
                captions = {c.index: c.tokens for c in batch.pop("captions", ())}
                own = stream.indices(i)[stream.rows()]
                result: dict[str, Any] = {"read": []}
                result["seen"], image_tokens = compiled.look(params, batch)
                for texts in _rounds(captions, own, compiled.task.text.length):
                    texts = stream.to_devices(texts)
                    result["read"].append(compiled.read(params, image_tokens, texts))
                if writes:
                    result["written"] = compiled.write(params, batch, beams=self._beams)
                yield result

    def _lines(
        self,
        index: Int[np.ndarray, " n"],
        mask: Bool[np.ndarray, " n"],
        captions: Captions,
        written: Written,
        stream,
    ) -> list[dict]:
        """What is told of each image, in the order of the data set."""
        text, lines = self._compiled.task.text, []
        for row in np.argsort(index):
            if not mask[row]:
                continue
            start, stop = np.searchsorted(captions.index, (index[row], index[row] + 1))
            own = Captions(*(column[start:stop] for column in captions))
            references = [text.caption(tokens) for tokens in own.text]
            caption = text.caption(written.text[row])
            lines.append(
                {
                    "index": int(index[row]),
                    "name": stream.name_of(int(index[row])),
                    "caption": caption,
                    "log_probability": float(written.log_probability[row]),
                    "exact": caption in references,
                    "references": references,
                    "nll": (own.nll / np.maximum(own.tokens, 1)).tolist(),
                }
            )
        return lines


def _rounds(
    captions: dict[int, Int32[np.ndarray, "k l"]], own: Int[np.ndarray, " r"], length: int
) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows with the first caption of each image, then with the second, and so on;
    index is -1 where an image has no more."""
    most = max((len(tokens) for tokens in captions.values()), default=0)
    none = np.zeros((0, length), np.int32)
    # Processes have read other captions and must make the same number of rounds.
    for number in range(max(parallel.gather("captions of a batch", most))):
        texts = np.zeros((len(own), length), np.int32)
        index = np.full(len(own), -1, np.int32)
        for row, image in enumerate(own.tolist()):
            tokens = captions.get(image, none)
            if number < len(tokens):
                texts[row], index[row] = tokens[number], image
        yield {"text": texts, "index": index, "number": np.full(len(own), number, np.int32)}


def _sorted(parts: list[dict[str, np.ndarray]]) -> Captions:
    """Rounds one after the other, without the rows that hold nothing, by image and number."""
    rows = Captions(*(np.concatenate([part[name] for part in parts]) for name in Captions._fields))
    kept = np.flatnonzero(rows.index >= 0)
    kept = kept[np.lexsort((rows.number[kept], rows.index[kept]))]
    return Captions(*(column[kept] for column in rows))
