"""metrics.jsonl: valid JSON, one line a step, in order, mended after a kill."""

import json

import pytest

from big_vit_lite.report.rows import Rows, read_rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_rows_are_in_the_file_when_add_returns(path):
    rows = Rows(path)
    rows.add(1, {"train/loss": 2.5})
    assert path.read_text() == '{"step": 1, "train/loss": 2.5}\n'
    rows.add(2, {"train/loss": 0.1})
    assert path.read_text().endswith('{"step": 2, "train/loss": 0.1}\n')


def test_rows_of_a_step_become_one_line_also_when_it_gets_shorter(path):
    rows = Rows(path)
    rows.add(1, {"a": 1.0})
    rows.add(2, {"a": 1234567.891})
    rows.add(2, {"val/top1": 0.5, "a": 2.0})
    assert lines(path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0, "val/top1": 0.5}]
    rows.add(3, {"a": 3.0})
    assert [row["step"] for row in lines(path)] == [1, 2, 3]


def test_nan_and_inf_are_null(path):
    rows = Rows(path)
    rows.add(1, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 7})
    assert lines(path) == [{"step": 1, "a": None, "b": None, "c": None, "d": 7}]


def test_step_backwards_is_an_error(path):
    rows = Rows(path)
    rows.add(10, {"a": 1.0})
    with pytest.raises(ValueError, match="row of step 9 after the row of step 10"):
        rows.add(9, {"a": 1.0})


@pytest.mark.parametrize(
    "torn", [b'{"step": 40, "a"', b'{"step": 40', b"\xff\xfe", b"[1]\n", b'{"a": 1}\n', b"7"]
)
def test_resume_mends_and_drops_what_comes_after(path, torn):
    rows = Rows(path)
    for step in (10, 20, 30):
        rows.add(step, {"a": step / 10})
    rows.close()
    with open(path, "ab") as file:
        file.write(torn)
    rows = Rows(path)
    rows.resume(20)
    assert lines(path) == [{"step": 10, "a": 1.0}, {"step": 20, "a": 2.0}]
    rows.add(20, {"val/top1": 0.5})  # an evaluation of the step that was saved
    rows.add(25, {"a": 9.0})
    assert lines(path)[1:] == [{"step": 20, "a": 2.0, "val/top1": 0.5}, {"step": 25, "a": 9.0}]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_resume_puts_rows_in_order_and_merges_equal_steps(path):
    path.write_text('{"step": 2, "a": 2}\n{"step": 1, "a": 1}\n{"step": 2, "b": 3}\n')
    Rows(path).resume(5)
    assert lines(path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2, "b": 3}]


def test_step_zero_starts_anew(path):
    path.write_text('{"step": 2, "a": 2}\n')
    rows = Rows(path)
    rows.resume(0)
    assert path.read_bytes() == b""
    rows.add(1, {"a": 1.0})
    assert lines(path) == [{"step": 1, "a": 1.0}]


def test_no_file_has_no_rows(path):
    assert read_rows(path) == []
