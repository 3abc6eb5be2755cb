"""The step: the same on every mesh, in parts as in one piece, within its memory."""

import re

import jax
import numpy as np
import pytest
from small import (
    compile_run,
    distance,
    first_state,
    make_optimizer,
    make_run,
    make_task,
    named,
    random_batch,
    train,
)

from big_vit_lite import config, parallel
from big_vit_lite.parallel import training

MESHES = {
    "1 device": (1, config.Mesh()),
    "8 data": (8, config.Mesh(data=8)),
    "8 fsdp": (8, config.Mesh(data=1, fsdp=8)),
    "2x4": (8, config.Mesh(data=2, fsdp=4)),
    "2x2x2": (8, config.Mesh(data=2, fsdp=2, tensor=2)),
}


def make_mesh(name):
    count, sizes = MESHES[name]
    return parallel.make_mesh(sizes, jax.devices()[:count])


@pytest.fixture
def small_fsdp(monkeypatch):
    """Lets leaves of tests' size be sharded."""
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)


def test_every_mesh_gives_the_same_losses(small_fsdp):
    run = make_run(
        model={"scan": True, "remat": "dots", "stochastic_depth": 0.2, "dropout": 0.1},
        task={"mixup": 0.2, "label_smoothing": 0.1},
        optim={"lr": 3e-3, "clip_norm": 1.0, "ema": 0.9},
    )
    first = first_state(run)
    losses = {name: train(run, make_mesh(name), 5, first)[0] for name in MESHES}
    reference = np.array(losses["1 device"])
    assert abs(reference[0] - reference[-1]) > 1e-3  # it does learn
    for name, other in losses.items():
        assert np.abs(np.array(other) / reference - 1).max() < 1e-5, name


def largest_error(tree, reference):
    """Per leaf, relative to max|reference|; the largest."""
    errors = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), 1e-30),
        tree,
        jax.device_get(reference),
    )
    return max(jax.tree.leaves(errors))


def test_accumulated_gradients_are_those_of_the_whole_batch():
    run = make_run(task={"mixup": 0.5})
    task = make_task(run)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    params = jax.jit(task.init)(jax.random.key(0))
    key = jax.random.key(1)
    batch = jax.jit(task.prepare)(random_batch(run, mesh, 0), key)
    compute = jax.jit(training.gradients, static_argnums=(0, 4))
    loss, _, whole = compute(task, params, batch, key, 1)
    for parts, tolerance in ((2, 1e-6), (8, 2e-6)):
        loss_in_parts, _, grads = compute(task, params, batch, key, parts)
        np.testing.assert_allclose(loss_in_parts, loss, rtol=1e-6)
        # Sums in another order, in float32: 0.8e-6 for two parts, 1.1e-6 for eight.
        assert distance(named(grads), named(whole))[0] < tolerance
    # Without the division by the number of parts they would differ.
    assert largest_error(jax.tree.map(lambda g: g * 2, whole), whole) > 0.9


def test_accumulation_under_sgd_gives_the_same_parameters():
    mesh = make_mesh("2x4")
    options = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
    runs = [make_run(optim={**options, "accumulate": parts}) for parts in (1, 2)]
    first = first_state(runs[0])
    states = [train(run, mesh, 3, first)[1] for run in runs]
    one, two = (named(state["params"]) for state in states)
    assert distance(one, two)[0] < 2e-6


def test_average_follows_its_formula():
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    run = make_run(optim={"ema": 0.5})
    task = make_task(run)
    init, step = training.make_functions(task, make_optimizer(run, task), run.seed)
    state = jax.jit(init)()
    ema = jax.device_get(state["params"])
    for i in range(4):
        state, _ = jax.jit(step)(state, random_batch(run, mesh, i))
        rate = min(0.5, (1 + i) / (10 + i))
        ema = jax.tree.map(
            lambda e, p, r=rate: r * e + (1 - r) * np.asarray(p), ema, state["params"]
        )
    assert largest_error(state["ema"], ema) < 1e-5
    assert largest_error(state["params"], ema) > 1e-3


def b16_run(**fields):
    return make_run(
        model={
            "width": None,
            "depth": None,
            "heads": None,
            "mlp_dim": None,
            "patch": None,
            "variant": "B/16",
            **fields,
        }
    )


@pytest.mark.parametrize("scan", [False, True])
def test_b16_state_is_split_evenly(scan):
    run = b16_run(scan=scan, pool="cls")
    task = make_task(run, (224, 224, 3), 1000)
    init, _ = training.make_functions(task, make_optimizer(run, task), 0)
    mesh = parallel.make_mesh(config.Mesh(data=1, fsdp=8))
    abstract = parallel.with_shardings(jax.eval_shape(init), mesh)
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))
    assert total > 3 * 86_567_656 * 4
    assert parallel.shard_bytes(abstract) <= 1.02 * total / 8


def compiled_step(monkeypatch, constrained=True, gathered=True):
    if not constrained:
        for module in ("models.vit", "models.layers.blocks", "tasks.classification"):
            monkeypatch.setattr(f"big_vit_lite.{module}.constrain", lambda x, *rest: x)
    if not gathered:
        monkeypatch.setattr("big_vit_lite.models.layers.blocks.weights_are_split", lambda: False)
    model = {"width": 128, "depth": 4, "heads": 4, "mlp_dim": 512, "scan": True, "remat": "none"}
    run = make_run(batch_size=128, model={**model, "patch": 4})
    done = compile_run(run, make_mesh("8 fsdp"))
    text = done.compiled.as_text()
    return (
        done.compiled.memory_analysis(),
        len(re.findall(r"\ball-gather(?:-start)?\(", text)),
        done,
    )


def test_memory_and_collectives_of_the_compiled_step(monkeypatch):
    memory, gathers, done = compiled_step(monkeypatch)
    # Activations of 16 images a device, and no more.
    assert memory.temp_size_in_bytes < 120 * 2**20
    assert gathers <= 8
    # The whole state is donated: nothing of it exists twice.
    state_bytes = parallel.shard_bytes(done.abstract)
    assert memory.alias_size_in_bytes >= state_bytes
    # `gather_weights` lost: twice the gathers. `constrain` lost as well: XLA follows the weights.
    _, scattered, _ = compiled_step(monkeypatch, gathered=False)
    assert scattered > 10
    loose, loose_gathers, _ = compiled_step(monkeypatch, constrained=False, gathered=False)
    assert loose.temp_size_in_bytes > 1.5 * 120 * 2**20 and loose_gathers > 30


def test_remat_saves_memory_on_cpu():
    """XLA for CPU merges what jax.checkpoint computes again with the first time, if it may."""

    def temporaries(remat):
        model = {"width": 64, "depth": 4, "heads": 4, "mlp_dim": 256, "scan": False}
        run = make_run(batch_size=64, model={**model, "patch": 4, "remat": remat})
        done = compile_run(run, make_mesh("1 device"))
        return done.compiled.memory_analysis().temp_size_in_bytes

    assert temporaries("dots") < 0.6 * temporaries("none")
