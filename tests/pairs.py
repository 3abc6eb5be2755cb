"""A small run with two towers for tests: its task and batches without any files."""

import jax
import numpy as np
import small
from small import named

from big_vit_lite import config, models, parallel, tasks
from big_vit_lite.parallel import training as steps

IMAGE, LENGTH = (8, 8, 3), 6
TEXT = f"lower|tokenize('bytes')|truncate({LENGTH})|pad({LENGTH})"
SIZES = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "remat": "none"}


def make_run(batch_size=16, model=None, text=None, steps=20, data=None, **fields):
    task = {"name": "contrastive", **fields.pop("task", {})}
    return config.Run(
        steps=steps,
        model={"patch": 4, "pool": "gap", **SIZES, **(model or {})},
        text={"vocabulary": 259, **SIZES, **(text or {})},
        task=task,
        data={
            "batch_size": batch_size,
            "train": {"source": "synthetic", "transform": "", "text": TEXT},
            **(data or {}),
        },
        **fields,
    )


def batch_spec(run, mesh, **more):
    n, sharding = run.data.batch_size, parallel.batch_sharding(mesh)
    shapes = {"image": (IMAGE, np.uint8), "text": ((LENGTH,), np.int32), **more}
    return {
        name: jax.ShapeDtypeStruct((n, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
        if shape is not None
    }


def one_device():
    return parallel.make_mesh(devices=jax.devices()[:1])


def make_task(run, mesh=None, **more):
    spec = batch_spec(run, mesh or one_device(), **more)
    return tasks.build(run, tasks.build_model(run, spec, 0, "cpu"))


def random_batch(run, mesh, step=0):
    """Images of noise; texts of noise, padded behind an end token of different places."""
    rng, n = np.random.default_rng(step), run.data.batch_size
    text = rng.integers(0, 256, (n, LENGTH), np.int32)
    ends = rng.integers(2, LENGTH, n)
    text[np.arange(LENGTH) > ends[:, None]] = 256
    text[np.arange(n), ends] = 258
    arrays = {"image": rng.integers(0, 256, (n, *IMAGE), np.uint8), "text": text}
    return jax.device_put(arrays, parallel.batch_sharding(mesh))


def random_params(task, seed=0):
    """Every leaf random, logit scale 10; without the seconds that compiling `init` takes."""
    rng, shapes = np.random.default_rng(seed), models.abstract_params(task.model)

    def draw(path, x):
        name = parallel.path_name(path)
        mean = 1.0 if name.endswith("scale") else np.log(10) if name == "t" else 0.0
        std = 0.5 if name.endswith("kernel") else 0.0 if name == "t" else 0.2
        return rng.normal(mean, std, x.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


def loss_and_gradients(run, sizes, count, accumulate=1, task=None, params=None):
    """(loss, metrics, gradients by path) on `count` devices, sharded as in training; parameters are
    random ones where none are given."""
    mesh = parallel.make_mesh(config.Mesh(**sizes), jax.devices()[:count])
    run = run.model_copy(update={"mesh": config.Mesh(**sizes)})
    task = task or make_task(run, mesh)
    params = random_params(task) if params is None else params
    shardings = parallel.state_shardings(params, mesh)
    params = jax.device_put(params, shardings)
    lock = small.make_optimizer(run, task).lock

    def compute(params, batch):
        batch = task.prepare(batch, jax.random.key(1))
        return steps.gradients(task, params, batch, jax.random.key(2), accumulate, 1.0, lock)

    with jax.set_mesh(mesh):
        replicated = parallel.replicated(mesh)
        compiled = jax.jit(compute, out_shardings=(replicated, replicated, shardings))
        loss, metrics, grads = compiled(params, random_batch(run, mesh))
    return float(loss), metrics, named(grads)
