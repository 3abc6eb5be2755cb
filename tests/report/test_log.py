"""Log: the step a row names is the one it holds, in every writer; resume; Weights & Biases."""

import errno
import json
import os
import struct
import sys
import types

import numpy as np
import pytest

from big_vit_lite import report
from big_vit_lite.config import InputError, RunError
from big_vit_lite.report import Log


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def scalars_of(workdir):
    """(step, value) by tag, as TensorBoard shows them: purged steps left out."""
    from tensorboardX.proto import event_pb2

    scalars: dict[str, dict[int, float]] = {}
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == event_pb2.SessionLog.START:
                for values in scalars.values():
                    for step in [s for s in values if s >= event.step]:
                        del values[step]
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def test_every_row_holds_the_step_it_names(tmp_path):
    """The dict and the arrays are reused and overwritten after each call, as loops do."""
    metrics, value = {}, np.zeros(())
    with Log(tmp_path) as log:
        for step in range(1, 502):
            value[...] = step
            metrics["train/loss"] = value
            log.row(step, metrics)
            value[...] = -1
            metrics["train/loss"] = None
    assert [(row["step"], row["train/loss"]) for row in rows_of(tmp_path)] == [
        (step, step) for step in range(1, 502)
    ]
    assert scalars_of(tmp_path)["train/loss"] == {step: step for step in range(1, 502)}


def test_resumed_log_has_each_step_once(tmp_path):
    with Log(tmp_path) as log:
        log.resume(0)
        for step in range(1, 31):
            log.row(step, {"a": step})
        log.flush()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "a"')
    with Log(tmp_path) as log:
        log.resume(20)
        for step in range(21, 26):
            log.row(step, {"a": -step})
    want = {**{s: s for s in range(1, 21)}, **{s: -s for s in range(21, 26)}}
    assert {row["step"]: row["a"] for row in rows_of(tmp_path)} == want
    assert [row["step"] for row in rows_of(tmp_path)] == sorted(want)
    assert scalars_of(tmp_path)["a"] == want


def test_run_that_is_not_resumed_starts_anew(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "a": 1}\n')
    with Log(tmp_path, tensorboard=False) as log:
        log.row(1, {"a": 2.0})
    assert rows_of(tmp_path) == [{"step": 1, "a": 2.0}]
    assert not (tmp_path / "tensorboard").exists()


def test_run_restarted_at_step_zero_shows_once_in_tensorboard(tmp_path):
    with Log(tmp_path) as log:
        for step in (1, 2, 3):
            log.row(step, {"a": step})
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.1.earlier"))  # not of the same second
    with Log(tmp_path) as log:
        log.row(2, {"a": -2})
    assert scalars_of(tmp_path)["a"] == {2: -2}


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(RunError) as caught, Log(tmp_path) as log:
        log.row(1, {"a": 1.0})
        monkeypatch.setattr(os, "pwrite", full)
        log.row(2, {"a": 2.0})
    assert str(caught.value) == (
        f"cannot write {tmp_path}/metrics.jsonl: No space left on device; "
        "make room and run the same command again"
    )


@pytest.mark.parametrize("call", ["resume", "flush"])
def test_full_disk_at_other_times_is_the_same_sentence(tmp_path, monkeypatch, call):
    with Log(tmp_path) as log:
        log.resume(0)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(RunError, match="metrics.jsonl: No space left on device; make room"):
                log.resume(0) if call == "resume" else log.flush()


def test_full_disk_under_tensorboard_is_one_sentence(tmp_path, monkeypatch):
    from tensorboardX.record_writer import RecordWriter

    with pytest.raises(RunError) as caught, Log(tmp_path) as log:
        log.row(1, {"a": 1.0})
        monkeypatch.setattr(RecordWriter, "write", full)
        log.row(2, {"a": 2.0})
    assert str(caught.value) == (
        f"cannot write {tmp_path}/tensorboard: No space left on device; "
        "make room and run the same command again"
    )


def test_what_went_wrong_first_is_told(tmp_path, monkeypatch):
    from tensorboardX.record_writer import RecordWriter

    with pytest.raises(RunError, match="^the loss is NaN$"), Log(tmp_path) as log:
        log.row(1, {"a": 1.0})
        monkeypatch.setattr(RecordWriter, "flush", full)
        raise RunError("the loss is NaN")


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"cannot write metrics to {tmp_path}/file/run: "):
        Log(tmp_path / "file" / "run")


def test_wandb_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        InputError, match="report.wandb is set, but wandb is not installed: run pip"
    ):
        Log(tmp_path, wandb="project")


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    calls = []

    class FakeRun:
        id = "abc"

        def log(self, values, step):
            calls.append((step, dict(values)))

        def finish(self):
            calls.append("finish")

    def init(**arguments):
        calls.append(arguments)
        return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for step in (0, 5):
        with Log(tmp_path, wandb="vit", name="first", config={"seed": 1}, tensorboard=False) as log:
            log.resume(step)
            log.row(step + 1, {"a": 0.5})
    opened = [call for call in calls if isinstance(call, dict)]
    assert [call["id"] for call in opened] == [None, "abc"]
    assert (opened[0]["project"], opened[0]["name"], opened[0]["config"]) == (
        "vit", "first", {"seed": 1},
    )  # fmt: skip
    assert calls[1:3] == [(1, {"a": 0.5}), "finish"]
    assert calls[4:] == [(6, {"a": 0.5}), "finish"]


def test_open_tells_a_person_too(tmp_path, capsys):
    with report.open(tmp_path, steps=10, tensorboard=False) as log:
        log.say("compiled")
        log.row(5, {"train/loss": 0.25})
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith(" s] compiled")
    assert told[1].endswith(" s] step 5/10  loss 0.2500")
