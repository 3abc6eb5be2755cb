"""Training curves: drawn from what is there, with everything named."""

import json

import matplotlib.figure
import matplotlib.image
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.report import curve, curves


def write(workdir, offset=0.0, averaged=True):
    workdir.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in range(1, 101):
        row = {"step": step, "train/loss": 2.3 / step + offset, "train/lr": 1e-3 * step / 100}
        if step % 20 == 0:
            row |= {"val/loss": 2.5 / step + offset, "val/top1": step / 101}
            if averaged:
                row |= {"val/ema/loss": 2.0 / step + offset, "val/ema/top1": step / 100.5}
        if step == 50:
            row["train/loss"] = None
        rows.append(json.dumps(row))
    (workdir / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return workdir


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *a, **k: (figures.append(self), save(self, *a, **k)),
    )
    return figures


def test_curve_shows_loss_accuracy_and_rate(tmp_path, drawn):
    path = curve(write(tmp_path / "run"))
    assert path == tmp_path / "run" / "curve.png"
    height, width, _ = matplotlib.image.imread(path).shape
    assert width > 1000 and height > 300
    loss, top1, rate = drawn[0].axes
    assert [axes.get_ylabel() for axes in drawn[0].axes] == [
        "loss", "top-1 accuracy", "learning rate",
    ]  # fmt: skip
    assert {axes.get_xlabel() for axes in drawn[0].axes} == {"step"}
    assert [line.get_label() for line in loss.lines] == [
        "train", "val (last 0.025)", "val, averaged (last 0.02)",
    ]  # fmt: skip
    assert [line.get_label() for line in top1.lines] == [
        "val (best 99.01%)", "val, averaged (best 99.50%)",
    ]  # fmt: skip
    assert list(loss.lines[1].get_xdata()) == [20, 40, 60, 80, 100]
    assert 50 not in loss.lines[0].get_xdata()  # null: not a number
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_recall_both_ways_has_a_panel_each(tmp_path, drawn):
    rows = [
        {"step": i, "coco/image_to_text/r1": i / 9, "coco/ema/image_to_text/r1": i / 8,
         "coco/text_to_image/r1": i / 7, "coco/text_to_image/r5": i / 6}
        for i in range(1, 4)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    curve(tmp_path)
    there, back = drawn[0].axes
    assert (there.get_ylabel(), back.get_ylabel()) == ("image to text R@1", "text to image R@1")
    assert [line.get_label() for line in there.lines] == [
        "coco (best 33.33%)", "coco, averaged (best 37.50%)",
    ]  # fmt: skip
    assert [line.get_label() for line in back.lines] == ["coco (best 42.86%)"]


def test_curves_of_seeds_have_a_colour_each(tmp_path, drawn):
    runs = {f"seed {i}": write(tmp_path / str(i), i / 10, averaged=False) for i in range(3)}
    path = curves(runs, tmp_path / "seeds.png", "digits")
    assert path.stat().st_size > 10_000
    lines = drawn[0].axes[1].lines
    assert [line.get_label() for line in lines] == [
        f"seed {i}: val (best 99.01%)" for i in range(3)
    ]
    assert len({line.get_color() for line in lines}) == 3


def test_only_what_is_there_is_drawn(tmp_path, drawn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n{"step": 2, "tr')
    curve(tmp_path)
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["loss"]


def test_nothing_to_draw_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="metrics.jsonl holds no metrics to draw"):
        curve(tmp_path)
