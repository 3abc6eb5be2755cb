"""Training curves as PNG, from metrics.jsonl: loss, accuracy or recall, learning rate."""

import io
from collections.abc import Mapping

from big_vit_lite import storage
from big_vit_lite.config import InputError
from big_vit_lite.report.rows import Row, read_rows
from big_vit_lite.storage import Place

# Okabe & Ito (2008): told apart with any colour vision, and in grey by their line styles.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Panels of metrics that are shares, by the end of their names.
_SHARES = {
    "top1": "top-1 accuracy",
    "image_to_text/r1": "image to text R@1",
    "text_to_image/r1": "text to image R@1",
}


def curve(workdir: str | Place) -> Place:
    """Draws WORKDIR/curve.png from WORKDIR/metrics.jsonl.

    Raises:
        InputError: if there are no metrics.
    """
    workdir = storage.place(workdir)
    name = workdir.name if storage.is_store(workdir) else workdir.resolve().name
    return _draw({"": _read(workdir)}, workdir / "curve.png", name)


def curves(workdirs: Mapping[str, str | Place], path: str | Place, title: str = "") -> Place:
    """Draws several runs, such as seeds, into one PNG.

    Args:
        workdirs: {label: workdir}; each label has its colour.
        path: the PNG to write.
        title: stands above it.

    Raises:
        InputError: if one of them has no metrics.
    """
    runs = {label: _read(storage.place(workdir)) for label, workdir in workdirs.items()}
    return _draw(runs, storage.place(path), title)


def _read(workdir: Place) -> list[Row]:
    rows = read_rows(workdir / "metrics.jsonl")
    if not rows:
        raise InputError(f"{workdir}/metrics.jsonl holds no metrics to draw")
    return rows


def _draw(runs: Mapping[str, list[Row]], path: Place, title: str) -> Place:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {"loss": "loss", **_SHARES, "lr": "learning rate"}
    panels = [(e, label) for e, label in panels.items() if any(_keys(r, e) for r in runs.values())]
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for position, (end, label) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), position)
        for number, (name, rows) in enumerate(runs.items()):
            _lines(axes, rows, end, name, number if len(runs) > 1 else None)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.02)
        if end == "loss" and _spans_decades(runs):
            axes.set_yscale("log")
        if end != "lr" or len(runs) > 1:
            crowded = len(axes.lines) > 6
            axes.legend(frameon=False, fontsize=6 if crowded else 8)
    if title:
        figure.suptitle(title, fontsize=11)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    storage.replace(path, png.getvalue())
    return path


def _lines(axes, rows: list[Row], end: str, run: str, colour: int | None) -> None:
    """The metrics of one run that end alike; one colour a metric, or one a run."""
    for number, key in enumerate(_keys(rows, end)):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        steps, values = zip(*points, strict=True)
        trained = key.startswith("train/")
        averaged = "/ema/" in key
        label = key.removesuffix(f"/{end}").replace("/ema", ", averaged")
        if end in _SHARES:
            label += f" (best {max(values):.2%})"
        elif not trained:
            label += f" (last {values[-1]:.3g})"
        if run:  # the run's name stands for its training curve: a legend must leave room
            label = run if trained else f"{run}: {label}"
        axes.plot(
            steps,
            values,
            label=label,
            color=_COLOURS[(number if colour is None else colour) % len(_COLOURS)],
            linestyle="-" if trained else "--" if averaged else "-",
            marker="" if trained or len(points) > 30 else "s" if averaged else "o",
            markersize=3.5,
            linewidth=1.0 if trained else 1.6,
            alpha=0.75 if trained and end != "lr" else 1.0,
        )


def _keys(rows: list[Row], end: str) -> list[str]:
    """Metrics with that ending which have a value, training first, averages last."""
    found = {
        key
        for row in rows
        for key, value in row.items()
        if key.endswith(f"/{end}") and value is not None
    }
    return sorted(found, key=lambda key: (not key.startswith("train/"), "/ema/" in key, key))


def _spans_decades(runs: Mapping[str, list[Row]]) -> bool:
    """Whether losses differ so much that a linear axis would show a flat line."""
    values = [
        row[key] for rows in runs.values() for key in _keys(rows, "loss") for row in rows
        if row.get(key) is not None
    ]  # fmt: skip
    return min(values) > 0 and max(values) / min(values) > 30
