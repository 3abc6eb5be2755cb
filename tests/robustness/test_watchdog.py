"""A run that stands still says where; one that works, or compiles, says nothing."""

import itertools
import re
import threading
import time

from several import ROOT

from big_vit_lite import parallel, train
from big_vit_lite.checkpoint import manifest
from big_vit_lite.data.prefetch import Prefetched
from big_vit_lite.report import Watchdog

QUICKSTART = str(ROOT / "configs" / "quickstart.py:tiny")


def hangs(original, calls, seconds=0.6):
    """A function that takes so long in those of its calls, counted from 1."""
    count = itertools.count(1)

    def something_that_hangs(*arguments, **options):
        if next(count) in calls:
            time.sleep(seconds)
        return original(*arguments, **options)

    return something_that_hangs


def told(said):
    """{what was waited for: seconds when it was first told of}"""
    form = r"^watchdog: nothing has moved for ([\d.]+) s: waiting for (.*?)\. The stacks of all"
    return {what: float(t) for t, what in reversed(re.findall(form, said, re.MULTILINE))}


def test_what_stalls_is_told_of_with_its_step_and_stacks(tmp_path, monkeypatch, capfd):
    """Two batches, two steps and the last checkpoint. Evaluations that a resumed run
    makes up for are in tests/test_train.py, which has such a run."""
    monkeypatch.setattr(train, "FIRST_PATIENCE", 2.0)
    run = ["--config", QUICKSTART, "--workdir", str(tmp_path), "--config.steps=4",
           "--config.model.depth=1", "--config.report.watchdog_s=0.2",
           "--config.evals={}"]  # fmt: skip

    def step_of(training, step, original=parallel.Training.at):
        function = original(training, step)
        return hangs(function, (1,)) if step in (1, 3) else function

    monkeypatch.setattr(Prefetched, "_wait", hangs(Prefetched._wait, (1, 4)))
    monkeypatch.setattr(parallel.Training, "at", step_of)
    monkeypatch.setattr(manifest, "commit", hangs(manifest.commit, (2,)))  # of steps 2 and 4
    assert train.main(run) == 0
    said = capfd.readouterr().err
    found = told(said)
    last = "the last save and the logs to be finished"
    assert {"step 3", "the batch of step 4", last} <= found.keys(), said
    for first in ("the batch of step 1", "step 1"):
        assert found[first] >= 0.4, first  # what comes first has more time
    assert "in something_that_hangs" in said and "Thread 0x" in said
    assert "watchdog: step 3 is there after 0." in said


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


class Slow:
    """A stream that takes its time with the report of a stall."""

    def __init__(self, file):
        self.fileno, self.flush = file.fileno, file.flush
        self.lines, self.telling = [], threading.Event()

    def write(self, text):
        if "nothing has moved" in text:
            self.telling.set()
            time.sleep(0.2)
        self.lines += [text] * (text != "\n")


def test_what_comes_while_it_is_told_of_is_said_to_have_come_afterwards(tmp_path):
    with open(tmp_path / "stacks", "w") as file:
        said = Slow(file)
        with Watchdog(0.05, stream=said) as watchdog:
            with watchdog.at_end("the end"):
                watchdog.expect("a batch")
                assert said.telling.wait(10)
            # Told of a moment ago, and there now: the next report is of what comes next.
            said.telling.clear()
            assert said.telling.wait(10)
    stall, there, end = said.lines[:3]
    assert "waiting for a batch" in stall and "a batch is there after 0." in there
    assert "waiting for the end" in end
