"""Goodput with a clock of our own, and in a run that is stopped, killed and resumed."""

import json
import signal
import time
from pathlib import Path

import pytest

from big_vit_lite import checkpoint
from big_vit_lite.report import Goodput, Pace
from big_vit_lite.train import main

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Step:
    """What a step returns, there when the clock shows `end`."""

    def __init__(self, clock, end):
        self.clock, self.end = clock, end

    def block_until_ready(self):
        self.clock.now = max(self.clock.now, self.end)
        return self


class Failed:
    def block_until_ready(self):
        raise RuntimeError("the device has gone")


def opened(clock, earlier=None):
    return Goodput(clock.now, earlier, clock=clock, wall=clock)


def test_only_steps_count_and_each_second_once():
    clock = Clock()
    with opened(clock) as goodput:
        clock.now += 30  # compiling
        goodput.step(clock.now, Step(clock, 1034))  # 4 s
        goodput.to_dict()
        goodput.step(1032.0, Step(clock, 1040))  # dispatched while the first ran: 6 s
        goodput.to_dict()
        clock.now += 20  # evaluating
        goodput.step(clock.now, Step(clock, 1062))  # 2 s
        assert goodput.to_dict() == {"first_start": 1000, "productive_s": 12}
        clock.now += 18  # saving
        assert goodput.read() == {"speed/goodput": pytest.approx(12 / 80)}
        told = "goodput 15.0%: 12 s of steps in 1 min 20 s since the first start"
        assert goodput.describe() == told


def test_a_restart_counts_the_time_between_and_steps_done_twice_once():
    clock = Clock()
    with opened(clock) as goodput:
        goodput.step(clock.now, Step(clock, 1010))
        saved = goodput.to_dict()
        goodput.step(clock.now, Step(clock, 1020))  # lost with the process
        goodput.to_dict()
    clock.now += 30  # until someone starts it again
    with opened(clock, json.loads(json.dumps(saved))) as goodput:
        goodput.step(clock.now, Step(clock, 1060))  # the same step again
        assert goodput.to_dict() == {"first_start": 1000, "productive_s": 20}
        assert goodput.read()["speed/goodput"] == pytest.approx(20 / 60)
        clock.now = 900.0  # a machine whose clock was set back
        assert goodput.read()["speed/goodput"] == 1


def test_a_step_that_failed_is_not_counted_and_holds_up_nothing():
    clock = Clock()
    with opened(clock) as goodput:
        goodput.step(clock.now, Failed())
        goodput.step(clock.now, Step(clock, 1005))
        assert goodput.to_dict()["productive_s"] == 5


def test_a_resumed_run_goes_on_from_the_first_start(tmp_path, monkeypatch, capfd):
    arguments = ["--config", QUICKSTART, "--workdir", str(tmp_path), "--config.report.every=1",
                 "--config.steps=8", "--config.model.depth=1"]  # fmt: skip
    original, calls = Pace.step, iter(range(1, 99))

    def stop_in_step_4(pace, waited, flops):
        if next(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return original(pace, waited, flops)

    began = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(Pace, "step", stop_in_step_4)
        assert main(arguments) == 3
    first = checkpoint.read_meta(tmp_path)["goodput"]
    ended = time.time()
    assert began <= first["first_start"] < ended
    assert 0 < first["productive_s"] < ended - first["first_start"]
    time.sleep(0.5)
    assert main(arguments) == 0
    second = checkpoint.read_meta(tmp_path)["goodput"]
    assert second["first_start"] == first["first_start"]
    assert second["productive_s"] > first["productive_s"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["speed/goodput"] < 1 for row in rows[1:])
    # The time of both processes and between them counts, whatever they did in it.
    passed = (tmp_path / "metrics.jsonl").stat().st_mtime - first["first_start"]
    assert rows[-1]["speed/goodput"] * passed <= 1.2 * second["productive_s"]
    assert second["productive_s"] < passed - 0.5
    # Each process says once what it took to compile.
    assert [row["step"] for row in rows if "speed/compile_s" in row] == [1, 5]
    said = capfd.readouterr().err
    assert said.count("compiled in ") == said.count(" since the first start") == 2
