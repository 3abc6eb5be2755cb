"""Durations in steps, epochs, examples and percent."""

import pytest

from big_vit_lite import config


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (300, 300),
        ("300", 300),
        ("300 steps", 300),
        ("1 step", 1),
        ("1e4 steps", 10_000),
        ("10_000", 10_000),
        (1e4, 10_000),
        (0, 0),
        ("1 epoch", "1 epochs"),
        ("1.5epochs", "1.5 epochs"),
        (".5 epochs", ".5 epochs"),
        ("5000 examples", "5000 examples"),
        (" 5 % ", "5%"),
        ("100%", "100%"),
    ],
)
def test_one_form_for_each_duration(text, canonical):
    parsed = config.parse_duration(text)
    assert parsed == canonical and type(parsed) is type(canonical)
    assert config.parse_duration(parsed) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3 hours", "wants steps as a number"),
        ("-3", "wants steps as a number"),
        ("1..5 epochs", "wants steps as a number"),
        ("", "wants steps as a number"),
        (True, "wants steps as a number"),
        (None, "wants steps as a number"),
        (float("nan"), "wants steps as a number"),
        ("2.5 steps", "is no whole number of steps"),
        (2.5, "is no whole number of steps"),
        ("101%", "is more than the whole run"),
        ("1e99 epochs", "is longer than any run"),
        ("1e999999999", "wants steps as a number"),
    ],
)
def test_others_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        config.parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (7, 7),
        ("7 steps", 7),
        ("1 epochs", 23),  # 1437 / 64 = 22.45
        ("60 epochs", 1348),  # 1347.19
        ("0.5 epochs", 12),
        ("0 epochs", 0),
        ("64 examples", 1),
        ("65 examples", 2),
        ("10%", 3),  # 0.1 * 30 is more than 3 in floating point
        ("7%", 3),
        ("0.001%", 1),
        ("100%", 30),
    ],
)
def test_steps_are_rounded_up_exactly(duration, steps):
    assert config.steps_of(duration, 64, examples=1437, total=30) == steps


def test_percent_of_any_length_is_exact():
    for total in range(100, 2001, 100):
        for percent in range(1, 101):
            assert config.steps_of(f"{percent}%", 8, total=total) == percent * total // 100


def test_what_cannot_be_counted_is_said():
    with pytest.raises(config.InputError, match="counts epochs of data whose size is not known"):
        config.steps_of("2 epochs", 64)
    with pytest.raises(config.InputError, match="a share of a run whose length is not known"):
        config.steps_of("2%", 64, examples=100)
    with pytest.raises(config.InputError, match="duration 'soon' wants steps"):
        config.steps_of("soon", 64)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"steps": 5}, 5),
        ({"examples": 65}, 9),
        ({"epochs": 3}, 38),
        ({"epochs": 0.1}, 2),
        ({"epochs": 1e-05}, 1),
    ],
)
def test_length_of_a_run(length, steps, make_run):
    run = make_run(**{"steps": None, **length})
    assert config.total_steps(run, examples=100) == steps


def test_batch_size_may_come_from_the_run(make_run):
    assert config.steps_of("1 epochs", make_run(), examples=100) == 13


def test_length_that_is_not_set_or_known(make_run):
    with pytest.raises(config.InputError, match="give one of steps, epochs, examples"):
        config.total_steps(make_run(steps=None), 100)
    with pytest.raises(config.InputError, match="size is not known"):
        config.total_steps(make_run(steps=None, epochs=2))
