"""Loss scaling and updates that are left out, with NaN put in at known steps."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import batch_spec, make_optimizer, make_run, make_task, random_batch

from big_vit_lite import checkpoint, config, parallel
from big_vit_lite.parallel import nonfinite
from big_vit_lite.report import LossWatch
from big_vit_lite.tasks.classification import Classification
from big_vit_lite.train import main

HUGE = 1e30
"""A factor that no gradient survives: over float16's range, and over float32's when squared."""


class Linear:
    """A linear map in `dtype`; numbers of the batch multiply its loss and its gradient."""

    def __init__(self, dtype=jnp.float32):
        self.dtype = dtype

    def init(self, key):
        return {"kernel": jax.random.normal(key, (24, 8)), "bias": jnp.zeros(8)}

    def prepare(self, batch, key):
        return batch

    def loss(self, params, batch, key):
        kernel, bias = (params[name].astype(self.dtype) for name in ("kernel", "bias"))
        y = (batch["x"].astype(self.dtype) @ kernel + bias).astype(jnp.float32)
        loss = jnp.square(y).mean()
        zero = loss - jax.lax.stop_gradient(loss)  # with the loss's gradient
        return loss * batch["loss"][0] + zero * batch["gradient"][0], {}


def compile_linear(run, count=1):
    """The step of a linear map, and its batches: (step, loss=factor, gradient=factor)."""
    mesh = parallel.make_mesh(devices=jax.devices()[:count])
    task = Linear(jnp.float16 if run.model.dtype == "float16" else jnp.float32)
    n, sharding = run.data.batch_size, parallel.batch_sharding(mesh)
    shapes = {"x": (n, 24), "loss": (n,), "gradient": (n,)}
    spec = {k: jax.ShapeDtypeStruct(s, np.float32, sharding=sharding) for k, s in shapes.items()}
    training = parallel.compile_training(task, make_optimizer(run, task), mesh, spec, run.seed)

    def batch(step, loss=1.0, gradient=0.0):
        x = np.random.default_rng(step).normal(size=shapes["x"])
        arrays = {"x": x, "loss": np.full(n, loss), "gradient": np.full(n, gradient)}
        return jax.device_put({k: v.astype(np.float32) for k, v in arrays.items()}, sharding)

    return training, batch


def test_a_step_that_is_not_finite_changes_nothing_but_the_step():
    run = make_run(optim={"skip_nonfinite": 3, "ema": 0.9, "warmup": 10, "clip_norm": 1.0})
    training, batch = compile_linear(run, count=2)
    state, rates = training.init(), []
    for step, poison in enumerate(({}, {"loss": np.nan}, {"gradient": HUGE}, {})):
        before = jax.device_get(state)
        state, metrics = training.step(state, batch(step, **poison))
        rates.append(float(metrics["lr"]))
        after = jax.device_get(state)
        assert after.pop("step") == step + 1
        before.pop("step")
        same = [
            np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
        ]
        assert (
            all(same)
            if poison
            else not any(
                s for s, x in zip(same, jax.tree.leaves(before), strict=True) if x.size > 100
            )
        )
    # The schedule stands still with the optimiser, and what is logged is what was used.
    assert rates[1] == rates[2] == rates[3] > rates[0]


def test_without_faults_skipping_changes_no_bit():
    ends = []
    for limit in (0, 5):
        training, batch = compile_linear(make_run(optim={"skip_nonfinite": limit}))
        state = training.init()
        for step in range(3):
            state, _ = training.step(state, batch(step))
        ends.append(jax.device_get(state))
    assert jax.tree.all(jax.tree.map(np.array_equal, *ends))


def test_the_scale_is_halved_by_overflows_and_grows_after_good_steps(monkeypatch):
    assert (nonfinite.FIRST_SCALE, nonfinite.GROWTH_STEPS) == (2.0**15, 2000)
    monkeypatch.setattr(nonfinite, "GROWTH_STEPS", 3)
    run = make_run(model={"dtype": "float16"}, optim={"lr": 1e-3})
    training, batch = compile_linear(run)
    state, scales = training.init(), []
    assert set(state) == {"step", "params", "opt_state", "loss_scale"}
    for step in range(10):
        bad = step in (1, 2)
        state, metrics = training.step(state, batch(step, gradient=HUGE if bad else 0.0))
        scales.append(float(np.log2(metrics["loss_scale"])))
        assert bool(metrics["overflow"]) == bad and bool(np.isfinite(metrics["loss"]))
    assert scales == [15, 15, 14, 13, 13, 13, 14, 14, 14, 15]
    # Interrupted in the middle of the count, it goes on as if nothing had been.
    resumed = jax.tree.map(lambda x, y: jax.device_put(np.asarray(x), y.sharding), state, state)
    ends = [training.step(s, batch(10))[0] for s in (state, resumed)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *map(jax.device_get, ends)))
    assert int(ends[0]["loss_scale"]["good_steps"]) == 2
    # What no smaller scale would help is no overflow: a loss that is NaN, or a scale of 1.
    is_overflow = nonfinite.is_overflow
    assert bool(is_overflow(2.0, 1.0, jnp.inf)) and not bool(is_overflow(1.0, 1.0, jnp.inf))
    assert not bool(is_overflow(2.0, jnp.nan, jnp.nan))
    state = {"scale": jnp.float32(1), "good_steps": jnp.int32(5)}
    assert nonfinite.next_scale(state, jnp.bool_(False)) == {"scale": 1.0, "good_steps": 0}
    state = {"scale": jnp.float32(nonfinite.MAX_SCALE), "good_steps": jnp.int32(2)}
    assert nonfinite.next_scale(state, jnp.bool_(True))["scale"] == 2.0**100


def test_scaling_saves_gradients_that_float16_loses():
    """With a loss of a hundred-millionth, float16 has no gradient unless it is scaled."""
    moved = {}
    for scale in ("none", "dynamic"):
        run = make_run(model={"dtype": "float16"}, optim={"loss_scale": scale, "lr": 1e-3})
        training, batch = compile_linear(run)
        state = training.init()
        first = np.asarray(state["params"]["kernel"])
        state, _ = training.step(state, batch(0, loss=1e-8))
        moved[scale] = (np.asarray(state["params"]["kernel"]) != first).mean()
    assert moved["dynamic"] > 0.9 and moved["none"] < 0.1


def test_float16_trains_as_float32_does():
    losses = {}
    for dtype in ("float16", "float32"):
        run = make_run(model={"dtype": dtype, "depth": 1}, optim={"lr": 3e-3})
        mesh = parallel.make_mesh(devices=jax.devices()[:1])
        task = make_task(run)
        training = parallel.compile_training(
            task, make_optimizer(run, task), mesh, batch_spec(run, mesh), run.seed
        )
        state, losses[dtype] = training.init(), []
        for _ in range(6):
            state, metrics = training.step(state, random_batch(run, mesh, 0))
            losses[dtype].append(float(metrics["loss"]))
    assert losses["float16"][-1] < losses["float16"][0] - 0.3
    np.testing.assert_allclose(losses["float16"], losses["float32"], rtol=5e-3)


class Batches:
    def indices(self, step):
        return [10 * step, 10 * step + 1]


def test_the_watch_counts_up_to_the_limit():
    said = []
    watch = LossWatch(Batches(), 2, said.append, {"nonfinite": 1})
    good, bad = {"loss": 1.0, "grad_norm": 1.0}, {"loss": 1.0, "grad_norm": np.inf}
    assert watch.add(1, good, wait=True) == [(1, good | {"skipped_updates": 1})]
    assert watch.add(2, bad, wait=True)[0][1]["skipped_updates"] == 2
    assert said == [
        "step 2: grad_norm is inf; its update is left out (2 of at most 2); its batch holds the "
        "examples [10, 11] of data.train"
    ]
    overflow = watch.add(3, bad | {"overflow": True, "loss_scale": 4.0}, wait=True)[0][1]
    assert overflow["overflows"] == 1 and "overflow" not in overflow
    assert watch.left_out == {"nonfinite": 2, "overflow": 1}
    with pytest.raises(
        config.RunError,
        match="^step 4: grad_norm is inf, after 2 updates left out, all that optim.skip_nonfinite "
        r"allows; its batch holds the examples \[30, 31\] of data.train. No state of this step",
    ):
        watch.add(4, bad, wait=True)


def test_a_run_goes_on_over_nan_and_resumes_to_the_bit(tmp_path, monkeypatch, capfd):
    def drawn(step):  # what the key of a step's preparation begins with
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step - 1), 0)
        return jax.random.key_data(key)[0]

    bad = jnp.stack([drawn(step) for step in (2, 5)])

    def prepare(self, batch, key, original=Classification.prepare):
        made = original(self, batch, key)
        is_bad = jnp.isin(jax.random.key_data(key)[0], bad)
        return made | {"image": jnp.where(is_bad, jnp.nan, made["image"])}

    monkeypatch.setattr(Classification, "prepare", prepare)
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.py"

    def run(workdir, *more):
        fields = {"steps": 6, "report.every": 1, "checkpoint.every": 3, "model.dtype": "float16",
                  "model.depth": 1}  # fmt: skip
        line = [f"--config.{key}={value}" for key, value in fields.items()]
        return main(["--config", f"{quickstart}:tiny", "--workdir", str(workdir), *line, *more])

    def rows(workdir):
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        keys = ("train/loss", "train/skipped_updates", "train/loss_scale")
        return [[json.loads(line).get(key) for key in keys] for line in lines]

    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, "--config.optim.skip_nonfinite=2") == 0
    assert [row[1] for row in rows(one)] == [0, 1, 1, 1, 2, 2]
    assert [row[0] is None for row in rows(one)] == [False, True, False, False, True, False]
    # Beyond the limit the run ends with a sentence; given more, it goes on where it was.
    assert run(two, "--config.optim.skip_nonfinite=1") == 1
    assert "step 5: loss is nan, after 1 updates left out" in capfd.readouterr().err
    assert checkpoint.read_meta(two)["left_out"]["nonfinite"] == 1
    assert run(two, "--config.optim.skip_nonfinite=2") == 0
    assert rows(two) == rows(one)
