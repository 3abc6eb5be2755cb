"""Two processes, of which one is asked to stop, or dies: both save and stop, or both end soon."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
import several

from big_vit_lite import checkpoint
from big_vit_lite.checkpoint import arrays

QUICKSTART = str(several.ROOT / "configs" / "quickstart.py:tiny")
COMMAND = "big_vit_lite.train"


def options(workdir, steps, *more):
    return ["--config", QUICKSTART, "--workdir", workdir, f"--config.steps={steps}",
            "--config.evals.val.every=100000", "--config.report.every=1", "--config.optim.ema=0.9",
            "--config.model.dropout=0.1", "--config.model.depth=1", "--config.mesh.fsdp=2",
            "--config.optim.schedule=constant", "--config.optim.warmup=0", *more]  # fmt: skip


def steps_of(workdir):
    try:
        lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in lines if line]


def wait_for_step(workdir, step, started, seconds=120):
    end = time.monotonic() + seconds
    while max(steps_of(workdir), default=0) < step:
        assert time.monotonic() < end and all(p.poll() is None for p in started)
        time.sleep(0.02)


def stored(workdir):
    directory = checkpoint.find(workdir)
    wanted = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in checkpoint.read_meta(directory)["arrays"].items()
    }
    return {name: np.asarray(x).tobytes() for name, x in arrays.load(directory, wanted).items()}


def test_a_signal_to_one_stops_both_and_the_resumed_run_is_bitwise_the_same(tmp_path):
    cut, said = tmp_path / "cut", tmp_path / "said"
    two = several.start(COMMAND, 2, 2, said, *options(cut, 100_000))
    wait_for_step(cut, 3, two)
    two[1].send_signal(signal.SIGTERM)
    assert several.wait(two, 60) == [3, 3], several.output(said, 0)
    assert "SIGTERM: saving after this step" in several.output(said, 1)
    assert "stopped and saved" in several.output(said, 0)
    at = checkpoint.read_meta(cut)["step"]
    assert steps_of(cut) == list(range(1, at + 1))

    end = at + 5
    two = several.in_turn(
        2, 2, said, [COMMAND, *options(cut, end)], [COMMAND, *options(tmp_path / "whole", end)]
    )
    assert several.wait(two) == [0, 0], several.output(said, 0)
    assert stored(cut) == stored(tmp_path / "whole")
    assert steps_of(cut) == list(range(1, end + 1))


@pytest.mark.parametrize(
    ("who", "how"),
    [
        pytest.param(1, "kill", id="worker"),
        pytest.param(0, "kill", id="coordinator", marks=pytest.mark.slow),
        pytest.param(1, "two signals", id="second signal", marks=pytest.mark.slow),
    ],
)
def test_a_dead_process_ends_the_other_within_the_heartbeat(tmp_path, who, how):
    workdir, said, heartbeat = tmp_path / "run", tmp_path / "said", 10
    more = ("--heartbeat", heartbeat, "--config.checkpoint.every=2")
    two = several.start(COMMAND, 2, 2, said, *options(workdir, 100_000, *more))
    wait_for_step(workdir, 5, two)
    began = time.monotonic()
    if how == "kill":
        two[who].kill()
    else:  # stopped in between, so that it cannot have ended after the first
        os.kill(two[1 - who].pid, signal.SIGSTOP)
        two[who].send_signal(signal.SIGINT)
        time.sleep(0.5)
        two[who].send_signal(signal.SIGINT)
        assert two[who].wait(5) == 128 + signal.SIGINT
        os.kill(two[1 - who].pid, signal.SIGCONT)
    codes = several.wait(two, 6 * heartbeat)
    assert codes[1 - who] not in (0, 3)
    assert time.monotonic() - began < 3 * heartbeat + 15  # two heartbeats, and END_SECONDS
    # What stands can be read, and rows reach as far.
    assert checkpoint.read_meta(workdir)["step"] <= steps_of(workdir)[-1]
    assert len(stored(workdir)) > 20
