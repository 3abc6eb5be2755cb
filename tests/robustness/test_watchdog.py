"""A run that stands still says where; one that works, or compiles, says nothing."""

import time

from several import ROOT

from big_vit_lite.data.prefetch import Prefetched
from big_vit_lite.report import Watchdog
from big_vit_lite.train import main

QUICKSTART = str(ROOT / "configs" / "quickstart.py:tiny")


def a_source_that_hangs(seconds):
    time.sleep(seconds)


def test_a_stalled_source_is_told_of_with_its_step_and_stacks(tmp_path, monkeypatch, capfd):
    original, calls = Prefetched._wait, iter(range(1, 99))

    def wait(batches):
        if next(calls) in (1, 4):  # the first is in the first step, which nobody watches
            a_source_that_hangs(1.5)
        return original(batches)

    monkeypatch.setattr(Prefetched, "_wait", wait)
    arguments = ["--config", QUICKSTART, "--workdir", str(tmp_path), "--config.steps=5",
                 "--config.model.depth=1"]  # fmt: skip
    assert main([*arguments, "--config.report.watchdog_s=0.5", "--config.evals={}"]) == 0
    said = capfd.readouterr().err
    told = [line for line in said.splitlines() if line.startswith("watchdog: nothing has moved")]
    assert any("waiting for the batch of step 4. The stacks of all threads" in x for x in told)
    assert not any("step 1" in line for line in told)
    assert "in a_source_that_hangs" in said and "Thread 0x" in said
    assert "watchdog: the batch of step 4 is there after 1." in said


def test_it_waits_as_long_as_it_is_told_and_doubles(tmp_path):
    with open(tmp_path / "said", "w+") as said:
        with Watchdog(0.1, " of process 3", said) as watchdog:
            time.sleep(0.3)  # nothing is expected yet
            watchdog.expect("an evaluation", patience=10)
            time.sleep(0.5)
            watchdog.expect("step 2")
            time.sleep(0.55)
        said.seek(0)
        lines = [line for line in said if line.startswith("watchdog of process 3: nothing")]
    assert 2 <= len(lines) <= 3 and all("waiting for step 2" in line for line in lines)
    with Watchdog(None) as watchdog:
        watchdog.expect("anything")
