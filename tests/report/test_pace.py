"""Speeds with a clock of our own."""

import pytest

from big_vit_lite.report.pace import Pace


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_pauses_are_left_out_and_rows_start_anew():
    clock = Clock()
    pace = Pace(32, devices=4, peak_flops=1e10, clock=clock)
    for _ in range(5):
        clock.now += 2.0
        pace.step(0.5, 1e9)
    with pace.pause():
        clock.now += 1000.0
    metrics = pace.read()
    assert metrics["speed/images_per_s"] == pytest.approx(16.0)
    assert metrics["speed/images_per_s_per_chip"] == pytest.approx(4.0)
    assert metrics["speed/step_s"] == pytest.approx(2.0)
    assert metrics["speed/data_wait"] == pytest.approx(0.25)
    assert metrics["speed/mfu"] == pytest.approx(16.0 * 1e9 / 4e10)
    assert pace.read() == metrics  # nothing new, so the same again
    clock.now += 1.0
    pace.step(0.0, 0.0)
    assert pace.read()["speed/images_per_s"] == pytest.approx(32.0)


def test_no_mfu_where_the_peak_is_not_known():
    pace = Pace(8, 1, None)
    pace.step(0.0, 1e9)
    assert "speed/mfu" not in pace.read()
