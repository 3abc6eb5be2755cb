"""Plain lines, the live line, and how numbers read."""

import io
import re

import pytest

from big_vit_lite.report.progress import Progress, describe, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_say_where_the_run_is():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, stream, clock=clock)
    clock.now += 2.5
    progress.say("first step compiled")
    progress.update(0)
    clock.now += 10
    for step in range(1, 21):
        progress.update(step)
    progress.row(20, {
        "train/loss": 1.5, "train/lr": 1e-3, "train/grad_norm": 0.75, "train/top1": 0.5,
        "speed/images_per_s": 1234.5, "speed/images_per_s_per_chip": 1.0, "speed/step_s": 0.5,
        "speed/mfu": 0.456, "speed/data_wait": 0.01, "memory/peak_bytes": 3 * 2**30,
    })  # fmt: skip
    progress.row(100, {"val/top1": 0.98765})
    assert stream.getvalue().splitlines() == [
        "[    2.5 s] first step compiled",
        "[   12.5 s] step 20/100  loss 1.5000  lr 1.00e-03  grad 0.75  1,234 images/s  MFU 45.6%  "
        "data wait 1.0%  memory 3.00 GiB  train/top1 0.5  40 s left",
        "[   12.5 s] step 100/100  val/top1 0.9877",
    ]


def test_time_left_after_a_resume_counts_this_process_only():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream, clock=clock)
    progress.update(900)
    clock.now += 10
    progress.row(950, {"a": 1})
    assert stream.getvalue().endswith("a 1  10 s left\n")


TRAINING = {
    "train/loss": 0.5, "train/lr": 1e-3, "train/grad_norm": 0.75, "speed/images_per_s": 99.0,
    "speed/mfu": 0.456, "speed/data_wait": 0.25, "memory/peak_bytes": 3 * 2**30,
}  # fmt: skip
ALL = (
    "loss 0.5000  lr 1.00e-03  grad 0.75  99 images/s  MFU 45.6%  data wait 25.0%  memory 3.00 GiB"
)


def on_a_terminal(columns, monkeypatch):
    """What a terminal shows of a run: lines above the bar, and the bar at the end."""
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    progress = Progress(200, stream, terminal=True, clock=Clock())
    progress.say("before the bar")
    progress.update(1)
    progress.row(150, TRAINING)
    progress.row(150, {"val/top1": 0.75})
    progress.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n")
    lines = plain.splitlines()
    above = [line for line in lines if line.startswith("[")]
    return above, [line for line in lines if line.lstrip().startswith("150/200")][-1]


def test_wide_terminal_has_all_in_a_live_line_with_evaluations_above(monkeypatch):
    above, live = on_a_terminal(150, monkeypatch)
    assert above == ["[    0.0 s] before the bar", "[    0.0 s] step 150/200  val/top1 0.75"]
    assert live.rstrip().endswith(ALL)
    assert len(live) <= 150


def test_narrow_terminal_has_all_in_lines_above_a_short_live_line(monkeypatch):
    above, live = on_a_terminal(80, monkeypatch)
    assert above == [
        "[    0.0 s] before the bar",
        f"[    0.0 s] step 150/200  {ALL}",
        "[    0.0 s] step 150/200  val/top1 0.75",
    ]
    assert live.rstrip().endswith("loss 0.5000  99 images/s  data wait 25.0%")
    assert len(live) <= 80


def test_a_pipe_is_no_terminal():
    assert Progress(1, io.StringIO())._terminal is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_small_speeds_keep_their_digits():
    assert describe({"speed/images_per_s": 1.234}) == "1.23 images/s"
