"""Top-1, top-5 and mean loss over a data set, each example counted exactly once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vit_lite import config, data, evals
from big_vit_lite.parallel import replicated


def rank_of_label(logits: jax.Array, labels: jax.Array, tie: float = 0.0) -> jax.Array:
    """How many classes score at least as high as the label's, itself not counted (b,).

    Ties count against us: a constant predictor is not right by luck of the order. NaN logits rank
    last. Scores nearer than `tie` are equal.
    """
    own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=-1)
    return logits.shape[-1] - 1 - jnp.sum(logits < own - tie, axis=-1)


def prepare(setting) -> tuple[Any, "Evaluation"]:
    """The stream and the evaluation of a run's evaluation; see evals.Setting.

    Raises:
        InputError: data that cannot be read, or with other classes than the training data.
    """
    stream = data.eval_stream(
        setting.split, setting.batch_size, setting.mesh, setting.run.data, setting.where
    )
    evals.check_classes(setting.name, stream.class_names, setting.class_names)
    made = setting.shared("classification", lambda: Evaluation(setting.task, setting.mesh))
    return stream, made


class Evaluation:
    """Classification accuracy; compiled once, used for raw and averaged weights alike."""

    notes: list[str] = []

    def __init__(self, task, mesh: Mesh):
        def evaluate_batch(params, batch):
            outputs = task.predict(params, batch)
            mask = batch["mask"]
            rank = rank_of_label(outputs["logits"], batch["label"])
            sums = {
                "count": mask.sum(),
                "bad": jnp.sum(~mask & (batch["index"] >= 0)),
                "loss": jnp.sum(jnp.where(mask, outputs["loss"], 0.0)),
                "top1": jnp.sum(mask & (rank < 1)),
                "top5": jnp.sum(mask & (rank < 5)),
            }
            k = min(5, outputs["logits"].shape[-1])
            scores, classes = jax.lax.top_k(jax.nn.softmax(outputs["logits"]), k)
            rows = {
                "index": jnp.where(mask, batch["index"], -1),
                "label": batch["label"],
                "loss": outputs["loss"],
                "classes": classes,
                "scores": scores,
            }
            return sums, rows

        self.mesh = mesh
        self.evaluate_batch = jax.jit(evaluate_batch, out_shardings=replicated(mesh))

    def run(
        self,
        params: Any,
        stream,
        predictions: Path | None = None,
        skipped: Callable[[tuple], None] = lambda found: None,
    ) -> dict[str, float]:
        """Numbers over a finite stream: loss, top1, and top5 with more than 5 classes.

        Args:
            params: the model's parameters, sharded as in training.
            stream: `data.eval_stream`; its last batch is padded and masked.
            predictions: a file that gets one JSON line an example: index, name, label, loss, and
                the best five classes with their probabilities.
            skipped: gets the examples of each batch that could not be used; they count nowhere.

        Raises:
            RunError: the stream did not hold every example once, or held none that can be used.
        """
        pending, rows = [], []
        with jax.set_mesh(self.mesh), stream.iterate(0, len(stream)) as batches:
            for batch in batches:
                skipped(batches.skipped)
                sums, row = self.evaluate_batch(params, batch)
                pending.append(sums)
                if len(pending) > 2:  # a bound on what is in flight at once
                    jax.block_until_ready(pending[-3])
                if predictions is not None:
                    rows.append(jax.device_get(row))
        # f64 on the host: sums of counts stay exact for any number of examples.
        totals = {
            k: float(np.sum([np.float64(s[k]) for s in jax.device_get(pending)]))
            for k in pending[0]
        }
        bad = int(totals["bad"])
        if (seen := int(totals["count"]) + bad) != stream.examples:
            raise config.RunError(
                f"evaluation saw {seen} examples of {stream.examples}; this is a defect of the "
                "input pipeline, please report it."
            )
        if not totals["count"]:
            raise config.RunError(f"none of the {bad} examples to evaluate can be used.")
        if predictions is not None:
            write_predictions(predictions, rows, stream)
        numbers = {k: totals[k] / totals["count"] for k in ("loss", "top1", "top5")}
        if len(stream.class_names) <= 5:
            del numbers["top5"]
        return numbers


def write_predictions(path: Path, batches: list[dict], stream) -> None:
    """One JSON object a line, in the order of the data set; rows with index -1 are left out."""
    examples = []
    for batch in batches:
        for i in np.flatnonzero(batch["index"] >= 0):
            names = stream.class_names
            best = [
                {"class": names[c] if c < len(names) else f"class {c}", "score": round(float(s), 6)}
                for c, s in zip(batch["classes"][i], batch["scores"][i], strict=True)
            ]
            index = int(batch["index"][i])
            examples.append(
                {
                    "index": index,
                    "name": stream.name_of(index),
                    "label": names[batch["label"][i]],
                    "loss": round(float(batch["loss"][i]), 6),
                    "best": best,
                }
            )
    examples.sort(key=lambda e: e["index"])
    with path.open("w") as file:
        file.writelines(json.dumps(e) + "\n" for e in examples)
