"""Zero-shot classification: an image belongs to the class whose description fits it best.

A class has the mean feature of its prompts: each prompt's feature has length 1, they are averaged,
and the mean is brought to length 1 again (Radford 2021, section 3.1.4). An image's score for a
class is the cosine of the two. Nothing else of the model enters, the logit scale neither.
"""

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32

from big_vit_lite import config, data, parallel
from big_vit_lite.evals import prompts
from big_vit_lite.evals.classification import rank_of_label
from big_vit_lite.evals.features import Features, check_seen
from big_vit_lite.evals.ranking import TIE, fetched, similarities

BEST = 5  # classes that predictions name


def prepare(setting) -> tuple[Any, "Evaluation"]:
    """The stream and the evaluation of a run's evaluation; see evals.Setting.

    Raises:
        InputError: data without labels, prompts or names that are wrong, a prompt that the text
            transform cannot take.
    """
    # Labels are what is wanted of data that has captions, too.
    split = setting.split.model_copy(update={"text": ""})
    stream = data.eval_stream(
        split, setting.batch_size, setting.mesh, setting.run.data, setting.where
    )
    key, options = f"evals.{setting.name}", setting.options
    names = prompts.class_names_of(options.class_names, stream.class_names, f"{key}.class_names")
    templates = prompts.templates_of(options.prompts, f"{key}.prompts")
    features = setting.shared_features()

    def classes() -> Classes:
        return Classes(features, names, templates, stream, f"{key}.prompts")

    made = setting.shared(("classes", names, templates, stream.batch_size), classes)
    scores = setting.shared("zero_shot", lambda: compile_scores(setting.task, setting.mesh))
    notes = [f"{key}: {line}" for line in [prompts.repeated(names)] if line]
    return stream, Evaluation(made, scores, setting.mesh, notes)


class Classes:
    """The features of classes, computed once for given parameters.

    The last two are kept, of the raw and of the averaged parameters, for evaluations that share
    names and prompts. They belong to the very arrays they were computed from, which never change;
    with these they are forgotten.

    Attributes:
        names: one for each class, in the order of the labels.
        tokens: of the prompts, (classes x templates, length); those of a class lie together.

    Raises:
        InputError: a prompt that the text transform cannot take; `key` is named.
    """

    KEPT = 2

    def __init__(
        self,
        features: Features,
        names: Sequence[str],
        templates: Sequence[str],
        stream: Any,
        key: str,
    ):
        self.names, self._features, self._stream = tuple(names), features, stream
        # What training says around a class's name, prompts say themselves.
        text = features.task.text.without_templates()
        self.tokens = tokenized(text, names, templates, key)
        self._kept: list[tuple[list[weakref.ref], jax.Array]] = []

    def of(self, params: Any) -> Float32[Array, "classes e"]:
        """Features of length 1 of all classes, on every device; NaN where a prompt's are."""
        leaves = jax.tree.leaves(params)
        self._kept = [kept for kept in self._kept if all(r() is not None for r in kept[0])]
        for references, made in self._kept:
            if all(r() is leaf for r, leaf in zip(references, leaves, strict=True)):
                return made
        made = self._encode(params)
        if all(isinstance(leaf, jax.Array) for leaf in leaves):  # others may change in place
            references = [weakref.ref(leaf) for leaf in leaves]
            self._kept = [*self._kept[1 - self.KEPT :], (references, made)]
        return made

    def _encode(self, params: Any) -> Float32[Array, "classes e"]:
        found = self._features.of_texts(params, self.tokens, self._stream)
        unit = of_prompts(found, len(self.names))
        whole = parallel.replicated(self._features.mesh)
        return jax.make_array_from_callback(unit.shape, whole, lambda index: unit[index])


def tokenized(
    text, names: Sequence[str], templates: Sequence[str], key: str
) -> Int32[np.ndarray, "prompts length"]:
    """Tokens of each template with each name, class after class.

    Raises:
        InputError: a prompt that the text transform cannot take.
    """
    rng, made = np.random.default_rng(0), []
    for name in names:
        for template in templates:
            prompt = template.replace("{}", name)
            try:
                made.append(text(prompt, rng))
            except ValueError as error:
                raise config.InputError(f"{key}: {prompt!r}: {error}") from error
    return np.stack(made)


def of_prompts(
    features: Float32[np.ndarray, "prompts e"], classes: int
) -> Float32[np.ndarray, "classes e"]:
    """Features of classes from those of their prompts, which are in the order of `tokenized`."""
    mean = features.reshape(classes, -1, features.shape[-1]).mean(1, dtype=np.float64)
    unit = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
    return unit.astype(np.float32)


def compile_scores(task, mesh) -> Callable[[Any, Any, dict], dict]:
    """A compiled function of (parameters, features of classes, batch): what is known of each row.

    rank: classes that score at least as high as the label's; predicted: the label where that is 0,
    else the best other class, and -1 where scores are NaN.
    """

    def compute(params, classes, batch):
        features = task.encode_image(params, batch).astype(jnp.float32)
        scores = similarities(features, classes)
        label = jnp.clip(batch["label"], 0, len(classes) - 1)
        rank = rank_of_label(scores, label, TIE)
        is_label = jnp.arange(len(classes)) == label[:, None]
        other = jnp.argmax(jnp.where(is_label, -jnp.inf, scores), axis=-1)
        known = ~jnp.isnan(scores).any(axis=-1)
        best, found = jax.lax.top_k(scores, min(BEST, len(classes)))
        return {
            "index": batch["index"],
            "mask": batch["mask"],
            "label": batch["label"],
            "rank": rank,
            "predicted": jnp.where(known, jnp.where(rank < 1, label, other), -1),
            "classes": found,
            "scores": best,
        }

    return jax.jit(compute, out_shardings=parallel.replicated(mesh))


class Evaluation:
    """Top-1, top-5 and mean accuracy of the classes; see the module.

    Attributes:
        notes: lines that the first measurement says.
    """

    def __init__(self, classes: Classes, scores: Callable, mesh, notes: Sequence[str] = ()):
        self._classes, self._scores, self._mesh = classes, scores, mesh
        self.notes = list(notes)

    def run(
        self,
        params: Any,
        stream,
        predictions: Path | None = None,
        skipped: Callable[[tuple], None] = lambda found: None,
    ) -> dict[str, float]:
        """Numbers over a finite stream: top1, top5 with more than 5 classes, mean_per_class.

        Ties count against us, and classes with the same name tie. mean_per_class is the mean of
        top1 over the classes that have examples.

        Args:
            predictions: a file that gets a JSON line an example: index, name, label, rank (0 is
                right; of scores that are NaN the last), predicted (null for NaN), and the best
                five classes with their cosines. Beside it FILE-classes.jsonl gets a line a class:
                label, name, examples, top1, and for what its examples were taken.
            skipped: gets the examples of each batch that could not be used; they count nowhere.

        Raises:
            RunError: as features.check_seen.
        """
        with jax.set_mesh(self._mesh):
            classes = self._classes.of(params)

        def batches() -> Iterator[dict]:
            with jax.set_mesh(self._mesh), stream.iterate(0, len(stream)) as made:
                for batch in made:
                    skipped(made.skipped)
                    yield self._scores(params, classes, batch)

        found = list(fetched(batches()))
        rows = {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}
        check_seen(rows["index"], rows["mask"], stream)
        rows = {key: values[rows["mask"]] for key, values in rows.items()}
        if predictions is not None:
            self._write(predictions, rows, stream)
        rank, label = rows["rank"], rows["label"]
        names = self._classes.names
        count = np.bincount(label, minlength=len(names))
        right = np.bincount(label, weights=rank < 1, minlength=len(names))
        numbers = {"top1": float((rank < 1).mean())}
        if len(names) > 5:
            numbers["top5"] = float((rank < 5).mean())
        there = count > 0
        return numbers | {"mean_per_class": float((right[there] / count[there]).mean())}

    def _write(self, path: Path, rows: dict[str, np.ndarray], stream) -> None:
        names = self._classes.names
        order = np.argsort(rows["index"])
        with path.open("w") as file:
            for i in order:
                index, predicted = int(rows["index"][i]), int(rows["predicted"][i])
                best = zip(rows["classes"][i], rows["scores"][i], strict=True)
                line = {
                    "index": index,
                    "name": stream.name_of(index),
                    "label": names[rows["label"][i]],
                    "rank": int(rows["rank"][i]),
                    "predicted": names[predicted] if predicted >= 0 else None,
                    "best": [
                        {"class": names[c], "score": round(float(s), 6)}
                        for c, s in best
                        if predicted >= 0
                    ],
                }
                file.write(json.dumps(line) + "\n")
        lines = confusion(rows["label"], rows["predicted"], names)
        with path.with_name(f"{path.stem}-classes{path.suffix}").open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def confusion(
    label: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], names: Sequence[str]
) -> list[dict]:
    """For each class its examples, the share of them that was right, and what others were taken
    for, the most frequent first; -1 in `predicted` becomes null."""
    pairs, counts = np.unique(np.stack([label, predicted]), axis=1, return_counts=True)
    found = [
        {"label": c, "name": name, "examples": 0, "top1": None, "taken_for": []}
        for c, name in enumerate(names)
    ]
    for (c, p), n in sorted(zip(pairs.T.tolist(), counts.tolist(), strict=True), key=_by_count):
        line = found[c]
        line["examples"] += n
        if p == c:
            line["top1"] = n
        else:
            taken = {"label": p, "name": names[p]} if p >= 0 else {"label": None, "name": None}
            line["taken_for"].append(taken | {"examples": n})
    for line in found:
        if line["examples"]:
            line["top1"] = (line["top1"] or 0) / line["examples"]
    return found


def _by_count(item: tuple[list[int], int]) -> tuple[int, list[int]]:
    return -item[1], item[0]
