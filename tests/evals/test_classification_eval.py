"""Accuracy over a stream: exact counts, masked padding, ties, predictions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, data, evals, parallel
from big_vit_lite.evals.classification import Evaluation, rank_of_label


class TableTask:
    """Scores that are a function of the first pixel, so that what is right is known."""

    def predict(self, params, batch):
        pixel = batch["image"][:, 0, 0, 0].astype(jnp.float32)
        logits = jnp.stack([jnp.sin(pixel * (k + 1)) for k in range(7)], -1) * params
        log_p = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_p, jnp.maximum(batch["label"], 0)[:, None], 1)[:, 0]
        return {"logits": logits, "loss": -own}


def make_stream(mesh, examples=37, batch_size=16):
    split = config.Split(
        source="synthetic", examples=examples, classes=7, image_size=(8, 8), transform=""
    )
    return data.eval_stream(split, batch_size, mesh)


def expected(stream):
    batches = [stream.host_batch(i) for i in range(len(stream))]
    keep = np.concatenate([b["mask"] for b in batches])
    pixel = np.concatenate([b["image"][:, 0, 0, 0] for b in batches])[keep].astype(np.float64)
    labels = np.concatenate([b["label"] for b in batches])[keep]
    logits = np.stack([np.sin(pixel * (k + 1)) for k in range(7)], -1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-logits, axis=-1)
    place = (order == labels[:, None]).argmax(-1)
    return {
        "loss": -log_p[np.arange(len(labels)), labels].mean(),
        "top1": (place < 1).mean(),
        "top5": (place < 5).mean(),
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_every_example_counts_once(devices):
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    stream = make_stream(mesh)
    numbers = Evaluation(TableTask(), mesh).run(jnp.float32(1.0), stream)
    wanted = expected(stream)
    assert 0 < wanted["top1"] < wanted["top5"] < 1
    for key, value in wanted.items():
        np.testing.assert_allclose(numbers[key], value, rtol=1e-5, err_msg=key)


def test_ties_and_nan_count_against_us():
    logits = jnp.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [jnp.nan] * 3, [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rank_of_label(logits, jnp.array([0, 0, 1, 2])), [1, 0, 2, 2])


def test_predictions_have_a_line_for_each_example(tmp_path):
    mesh = parallel.make_mesh(devices=jax.devices()[:2])
    stream = make_stream(mesh, examples=21, batch_size=8)
    scheduled = evals.Scheduled("val", 1, stream, Evaluation(TableTask(), mesh), True)
    state = {"params": jnp.float32(1.0), "ema": jnp.float32(-1.0)}
    metrics = evals.measure(scheduled, state, 12, tmp_path)
    assert {"val/top1", "val/ema/top1", "val/loss", "val/ema/top5"} <= set(metrics)
    assert metrics["val/top1"] != metrics["val/ema/top1"]
    lines = [json.loads(line) for line in (tmp_path / "val-12.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(21))
    right = np.mean([line["best"][0]["class"] == line["label"] for line in lines])
    np.testing.assert_allclose(right, metrics["val/top1"], rtol=1e-6)
    assert (tmp_path / "val-ema-12.jsonl").exists()
    assert set(lines[0]) == {"index", "name", "label", "loss", "best"}


def test_other_classes_than_in_training_are_refused():
    with pytest.raises(
        config.InputError, match=r"evals\.val\.data has 2 classes and data\.train 3"
    ):
        evals.check_classes("val", ("cat", "dog"), ("cat", "dog", "eel"))
    with pytest.raises(config.InputError, match="their order differs"):
        evals.check_classes("val", ("dog", "cat"), ("cat", "dog"))
