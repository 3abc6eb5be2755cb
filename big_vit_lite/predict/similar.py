"""similar: the embedded images that are nearest to other images, or to texts."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int

from big_vit_lite import report
from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.evals import prompts
from big_vit_lite.predict import (
    compiled,
    faiss_index,
    identity,
    inputs,
    options,
    outputs,
    reading,
    search,
    stored,
    zero_shot,
)
from big_vit_lite.predict.counts import Counts
from big_vit_lite.predict.outputs import Answer, Found
from big_vit_lite.pretrained import Pretrained


class _Query(NamedTuple):
    """What is looked for: an image by its path, or a text."""

    kind: str
    name: str
    thumbnail: bytes = b""


def run(name: str, words: list[str], given: dict[str, Any]) -> None:
    """The command.

    Raises:
        InputError: wrong input, or embeddings of another model.
        RunError: an output cannot be written, or the model gives no numbers.
    """
    factory = faiss_index.factory_of(given.get("index", "exact"))
    if factory is not None:
        faiss_index.library()
    held = stored.opened(given["embeddings"])
    texts = prompts.listed_texts(given["query"], "--query") if "query" in given else ()
    if not words and not texts:
        raise InputError("there is nothing to look for: name images as INPUT, or give --query")
    paths = inputs.find(words, given.get("skip_unreadable", False)) if words else []
    top = min(given.get("top", options.TOP), held.rows)
    outputs.check(given, len(paths) + (len(paths) + len(texts)) * top)
    model = compiled.model_of(name, given)
    queries, features = _features(model, paths, texts, given, held)
    display = report.Counting("vectors")
    try:
        if factory is not None:
            rows, scores = faiss_index.nearest(features, given["embeddings"], held, top, factory)
        else:
            counts = Counts(held.rows)

            def progress(done: int) -> None:
                counts.add(done, 0)
                if held.rows > search.ITEMS:
                    display.update(counts)

            rows, scores = search.nearest(features, held, top, progress=progress)
    finally:
        display.close()
    _tell(queries, rows, scores, held, given)


def _features(
    model: Pretrained, paths: list[str], texts: tuple[str, ...], given: dict[str, Any], held
) -> tuple[list[_Query], Float32[np.ndarray, "q e"]]:
    """What is looked for, and the features of it, of images first."""
    if texts:
        zero_shot.require_texts(model, "look for images")
    display, counts = report.Counting("images"), Counts(len(paths))
    queries: list[_Query] = []
    found: list[np.ndarray] = []
    images = reading.images_of(model, paths, given)
    stored.require_same_space(held.about, identity.of_model(model), given["embeddings"])

    def features(params, seen):
        return {"features": model.encode_image(seen, params)}

    answer = paths and compiled.Compiled(model, features, compiled.batch_size(given, len(paths)))
    try:
        for batch, made in compiled.answers(answer, images) if paths else ():
            left_out = compiled.unreadable(images, batch, display.say)
            counts.add(batch.seen, len(left_out))
            found += [made["features"]] if made else []
            small = batch.thumbnails or [b""] * len(batch.rows)
            queries += [
                _Query("image", paths[row], each)
                for row, each in zip(batch.rows, small, strict=True)
            ]
    finally:
        display.close()
    if not texts:
        counts.require_some()
    if texts:
        found.append(zero_shot.encoded(model, model.tokenize(texts), report.Counting("texts")))
        queries += [_Query("text", text) for text in texts]
    return queries, np.concatenate(found)


def _tell(
    queries: list[_Query],
    rows: Int[np.ndarray, "q k"],
    scores: Float64[np.ndarray, "q k"],
    held,
    given: dict[str, Any],
) -> None:
    names = held.paths(rows[rows >= 0].tolist())
    pictures = _thumbnails(sorted(set(names.values()))) if "html" in given else {}
    columns = ("query", "image", "cosine")
    widest = max(len(query.name) for query in queries), max(map(len, names.values()))
    with outputs.opened(given, "Similar images", columns, widest) as out:
        for query, found, cosines in zip(queries, rows.tolist(), scores.tolist(), strict=True):
            lines = [
                Found(names[row], {"cosine": cosine}, pictures.get(names[row], b""))
                for row, cosine in zip(found, cosines, strict=True)
                if row >= 0
            ]
            record = {
                query.kind: query.name,
                "similar": [{"image": line.name, **line.numbers} for line in lines],
            }
            out.add(Answer(query.name, lines, record, query.thumbnail))


def _thumbnails(paths: list[str]) -> dict[str, bytes]:
    """Small pictures of the images that are still there."""
    made = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            made[path] = reading.thumbnail(files.read(path))
    return made
