"""A small run for tests of the step: its task, optimiser and batches without any files."""

import functools

import jax
import numpy as np

from big_vit_lite import config, models, optim, parallel, tasks
from big_vit_lite.parallel import training as steps


def make_run(batch_size=16, model=None, **fields):
    sizes = {"width": 32, "depth": 3, "heads": 4, "mlp_dim": 64, "patch": 8, "pool": "gap"}
    return config.Run(
        steps=20,
        model=config.Model(**{**sizes, "head_init": 0.02, **(model or {})}),
        data={"batch_size": batch_size, "train": {"source": "synthetic", "transform": ""}},
        **fields,
    )


def make_task(run, image_shape=(32, 32, 3), classes=10):
    model = models.build_model(run.model, image_shape, classes, "cpu")
    model = models.with_grad_dtype(model, run.optim.grad_dtype)
    if run.mesh.stage > 1:
        model = models.in_stages(model, config.microbatches(run.mesh))
    return tasks.build(run, model)


def make_optimizer(run, task):
    return optim.build(run, jax.eval_shape(task.init, jax.random.key(0)), run.steps, 1000)


def batch_spec(run, mesh, image_shape=(32, 32, 3)):
    sharding = parallel.batch_sharding(mesh)
    n = run.data.batch_size
    return {
        "image": jax.ShapeDtypeStruct((n, *image_shape), np.uint8, sharding=sharding),
        "label": jax.ShapeDtypeStruct((n,), np.int32, sharding=sharding),
    }


def random_batch(run, mesh, step, image_shape=(32, 32, 3)):
    rng = np.random.default_rng(step)
    n = run.data.batch_size
    arrays = {
        "image": rng.integers(0, 256, (n, *image_shape), np.uint8),
        "label": rng.integers(0, 10, n, np.int32),
    }
    return jax.device_put(arrays, parallel.batch_sharding(mesh))


def compile_run(run, mesh):
    """The compiled step of a run."""
    task = make_task(run)
    spec = batch_spec(run, mesh)
    return parallel.compile_training(task, make_optimizer(run, task), mesh, spec, run.seed)


def train(run, mesh, steps, first=None):
    """Losses of `steps` steps, and the last state.

    Args:
        first: the state to begin with, as arrays of the host; None: the run's own, whose program
            takes seconds to compile.
    """
    training = compile_run(run, mesh)
    if first is None:
        state = training.init()
    else:
        shardings = jax.tree.map(lambda x: x.sharding, training.abstract)
        state = jax.device_put(first, shardings)
    losses = []
    for i in range(steps):
        state, metrics = training.step(state, random_batch(run, mesh, i))
        losses.append(float(metrics["loss"]))
    return losses, state, training


def drawn_state(training, params):
    """What `training.init` gives, of these parameters; its program takes seconds to compile."""
    abstract = {k: x for k, x in training.abstract.items() if k != parallel.TEACHER}
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    state |= {name: params for name in ("params", "ema") if name in state}
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, abstract))


def first_state(run):
    """The run's own state before any step, as arrays of the host."""
    task = make_task(run)
    init, _ = steps.make_functions(task, make_optimizer(run, task), run.seed)
    return jax.device_get(jax.jit(init)())


@functools.cache
def initial_params(run):
    """Drawn once for all meshes: what `init` gives on each is another test's matter."""
    return jax.device_get(jax.jit(make_task(config.Run.from_json(run)).init)(jax.random.key(0)))


def loss_and_gradients(run, sizes, count, compiler_options=None):
    """Loss, and gradients by path, computed on `count` devices, sharded as in training."""
    mesh = parallel.make_mesh(config.Mesh(**sizes), jax.devices()[:count])
    run = run.model_copy(update={"mesh": config.Mesh(**sizes)})
    task = make_task(run)
    params = initial_params(run.model_copy(update={"mesh": config.Mesh()}).to_json())
    shardings = parallel.state_shardings(jax.eval_shape(lambda: params), mesh)
    params = jax.device_put(params, shardings)

    def compute(params, batch):
        batch = task.prepare(batch, jax.random.key(1))
        return steps.gradients(task, params, batch, jax.random.key(2), 1)

    with jax.set_mesh(mesh):
        replicated = parallel.replicated(mesh)
        function = jax.jit(compute, out_shardings=(replicated, replicated, shardings))
        batch = random_batch(run, mesh, 0)
        compiled = function.lower(params, batch).compile(compiler_options)
        loss, _, grads = compiled(params, batch)
    return float(loss), named(grads)


def named(tree):
    """Its leaves, as arrays of the host, by path."""
    return {
        parallel.path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def scale(name, wanted):
    """What the error of a leaf is relative to: its largest value.

    A key bias moves all scores of a query alike, which softmax does not see: its gradient is zero
    but for the rounding of a sum of terms as large as those of the kernel beside it.
    """
    if name.endswith("key/bias"):
        name = name.removesuffix("bias") + "kernel"
    return np.abs(wanted[name]).max() or 1.0


def distance(found, wanted):
    """Largest difference of any leaf, relative to its scale, and its name."""
    assert found.keys() == wanted.keys()
    return max(
        (np.abs(found[name] - wanted[name]).max() / scale(name, wanted), name) for name in wanted
    )
