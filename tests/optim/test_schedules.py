"""Learning-rate schedules against their formulas."""

import math

import numpy as np
import pytest

from big_vit_lite.optim import make_schedule


def test_warmup_reaches_the_full_rate_at_its_last_step():
    lr = make_schedule("constant", 2.0, 100, warmup=4)
    np.testing.assert_allclose([lr(s) for s in range(6)], [0.5, 1.0, 1.5, 2.0, 2.0, 2.0], rtol=1e-6)


def test_cosine_falls_from_the_end_of_warmup_to_the_end_of_the_run():
    lr = make_schedule("cosine", 1e-3, 110, warmup=10, end_lr=0.1)
    for step in (10, 35, 60, 85, 110):
        progress = (step - 10) / 100
        wanted = 1e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        np.testing.assert_allclose(lr(step), wanted, rtol=1e-5)
    rates = np.array([lr(s) for s in range(9, 111)])
    assert (np.diff(rates) <= 0).all()


def test_linear_is_a_line():
    lr = make_schedule("linear", 1.0, 10, end_lr=0.2)
    np.testing.assert_allclose([lr(s) for s in (0, 5, 10)], [1.0, 0.6, 0.2], rtol=1e-6)


def test_rsqrt_with_timescale_and_cooldown():
    lr = make_schedule("rsqrt", 1.0, 1000, warmup=100, cooldown=100, timescale=50)
    np.testing.assert_allclose(lr(100), 1.0, rtol=1e-6)
    np.testing.assert_allclose(lr(250), 1 / math.sqrt(1 + 150 / 50), rtol=1e-6)
    np.testing.assert_allclose(lr(950), 0.5 / math.sqrt(1 + 850 / 50), rtol=1e-6)
    np.testing.assert_allclose(lr(1000), 0.0, atol=1e-8)


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="'cosin' is not one of cosine, linear, rsqrt, constant"):
        make_schedule("cosin", 1.0, 10)(0)
