"""The notebook runs from top to bottom, as a reader would run it."""

from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parent.parent.parent


def test_quickstart_notebook_trains_and_shows_its_pictures(tmp_path):
    notebook = nbformat.read(ROOT / "colabs" / "quickstart.ipynb", as_version=4)
    (settings,) = (cell for cell in notebook.cells if "overrides = {}" in cell.source)
    settings.source += f'\noverrides = {{"epochs": 2}}\nworkdir = Path({str(tmp_path / "run")!r})'
    nbclient.NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": ROOT / "colabs"}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2  # the digits and the curve
    text = "".join(o.get("text", "") for o in outputs)
    predicted = text.split("predicted [")[1].split("]")[0].split()
    labels = text.split("labels    [")[1].split("]")[0].split()
    assert len(predicted) == len(labels) == 16
    # Two epochs are enough to be far above chance, which gives one or two of sixteen.
    assert sum(a == b for a, b in zip(predicted, labels, strict=True)) >= 5
