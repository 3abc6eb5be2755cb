"""The classification task: normalisation, targets, and that its parts agree."""

import jax
import jax.numpy as jnp
import numpy as np
from small import make_run, make_task, random_batch

from big_vit_lite import parallel
from big_vit_lite.tasks.classification import normalize


def test_normalisation_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    wanted = (images / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        normalize(jnp.asarray(images), mean, std), wanted, rtol=1e-5, atol=1e-6
    )
    grey = normalize(jnp.asarray(images), (0.5,), (0.5,))
    np.testing.assert_allclose(grey, images / 127.5 - 1, rtol=1e-5, atol=1e-6)


def test_smoothing_comes_before_mixing_and_prediction_knows_neither():
    run = make_run(task={"label_smoothing": 0.2, "mixup": 0.4})
    task = make_task(run)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    batch = random_batch(run, mesh, 0)
    prepared = task.prepare(batch, jax.random.key(0))
    target = np.asarray(prepared["target"])
    np.testing.assert_allclose(target.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(target.min(), 0.2 / 10, rtol=1e-5)  # mixing keeps the floor
    params = jax.jit(task.init)(jax.random.key(0))
    outputs = task.predict(params, batch)
    log_p = jax.nn.log_softmax(outputs["logits"])
    wanted = -np.take_along_axis(np.asarray(log_p), np.asarray(batch["label"])[:, None], 1)[:, 0]
    np.testing.assert_allclose(outputs["loss"], wanted, rtol=1e-5)


def test_training_loss_of_a_plain_batch_is_the_mean_of_its_predictions():
    for loss in ("softmax", "sigmoid"):
        run = make_run(task={"loss": loss})
        task = make_task(run)
        mesh = parallel.make_mesh(devices=jax.devices()[:1])
        batch = random_batch(run, mesh, 0)
        params = jax.jit(task.init)(jax.random.key(0))
        total, _ = task.loss(params, task.prepare(batch, jax.random.key(1)), jax.random.key(2))
        np.testing.assert_allclose(total, task.predict(params, batch)["loss"].mean(), rtol=1e-5)
