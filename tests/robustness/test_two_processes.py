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
from big_vit_lite.exit_codes import PEER_ENDED

QUICKSTART = str(several.ROOT / "configs" / "quickstart.py:tiny")
COMMAND = "big_vit_lite.train"
HEARTBEAT = 6  # seconds


def options(workdir, steps, *more):
    return ["--config", QUICKSTART, "--workdir", workdir, f"--config.steps={steps}",
            "--config.evals={}", "--config.report.every=1", "--config.report.tensorboard=false",
            "--config.report.curve=false",
            "--config.optim.ema=0.9", "--config.model.dropout=0.1", "--config.model.depth=1",
            "--config.mesh.data=1", "--config.mesh.fsdp=4",  # each process writes its own half
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def stopped(folder):
    """Exit codes of two processes of which one was sent a signal; their run is in FOLDER/cut."""
    two = several.start(COMMAND, 2, 2, folder / "first", *options(folder / "cut", 100_000))
    wait_for_step(folder / "cut", 3, two)
    two[1].send_signal(signal.SIGTERM)
    return several.wait(two, 60), checkpoint.read_meta(folder / "cut")["step"]


@pytest.fixture(scope="module")
def again(folder, stopped):
    """(the step to which two processes go on with that run, then train FOLDER/whole, which nothing
    stops and which does not end there; the processes)."""
    end = stopped[1] + 4 + stopped[1] % 2
    saves = (f"--config.checkpoint.keep_every={end}", "--config.checkpoint.every=2")
    two = several.in_turn(
        2, 2, folder / "again",
        [COMMAND, *options(folder / "cut", end), "--heartbeat", HEARTBEAT],
        [COMMAND, *options(folder / "whole", 100_000, *saves)],
    )  # fmt: skip
    yield end, two
    for process in two:
        process.kill()


def test_a_signal_to_one_stops_both(folder, stopped):
    codes, at = stopped
    said = [several.output(folder / "first", i) for i in range(2)]
    assert codes == [3, 3], said[0]
    assert "SIGTERM: saving after this step" in said[1]
    assert "stopped and saved" in said[0]
    assert steps_of(folder / "cut") == list(range(1, at + 1))


def test_the_resumed_run_is_bitwise_the_same(folder, again):
    end, two = again
    wait_for_step(folder / "whole", end + 3, two)  # the save after that of `end` has begun
    assert stored(folder / "cut") == stored(folder / "whole" / "checkpoints" / str(end))
    assert steps_of(folder / "cut") == list(range(1, end + 1))


def test_a_dead_worker_ends_the_other_within_the_heartbeat(folder, again):
    _, two = again
    dies(two, folder / "whole", lambda: two[1].kill())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dead coordinator", "second signal"])
def test_others_that_end_do_so_too(tmp_path, how):
    more = ("--heartbeat", HEARTBEAT, "--config.checkpoint.every=2")
    workdir = tmp_path / "run"
    two = several.start(COMMAND, 2, 2, tmp_path / "said", *options(workdir, 100_000, *more))

    def insist():  # the other is stopped in between, so that it cannot have ended after the first
        os.kill(two[0].pid, signal.SIGSTOP)
        two[1].send_signal(signal.SIGINT)
        time.sleep(0.5)
        two[1].send_signal(signal.SIGINT)
        assert two[1].wait(5) == 128 + signal.SIGINT
        os.kill(two[0].pid, signal.SIGCONT)

    if how == "second signal":
        dies(two, workdir, insist)
    else:
        dies(two, workdir, lambda: two[0].kill(), other=1)


def dies(two, workdir, kill, other=0):
    wait_for_step(workdir, 5, two)
    began = time.monotonic()
    kill()
    assert two[other].wait(4 * HEARTBEAT) == PEER_ENDED
    assert time.monotonic() - began < HEARTBEAT + 5
    # What stands can be read, and rows reach as far.
    assert checkpoint.read_meta(workdir)["step"] <= steps_of(workdir)[-1]
    assert len(stored(workdir)) > 20
