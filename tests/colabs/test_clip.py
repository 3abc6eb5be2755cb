"""The notebook of two towers runs from top to bottom, as a reader would run it."""

from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_clip_notebook_trains_and_chooses_captions(tmp_path):
    notebook = nbformat.read(ROOT / "colabs" / "clip.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it ships without
    (settings,) = (cell for cell in notebook.cells if "overrides = {}" in cell.source)
    short = {"steps": 100, "model.depth": 1, "data.batch_size": 80}
    short |= {"data.val.examples": 400, "evals.unseen.data.examples": 400}
    short |= {"report.tensorboard": False, "model.remat": "none", "text.remat": "none"}
    settings.source += f"\noverrides = {short}\nworkdir = Path({str(tmp_path / 'run')!r})"
    nbclient.NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": ROOT / "colabs"}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 7  # pairs, held out, curve, similarity, choice, shares, new caption
    text = "".join(o.get("text", "") for o in outputs)
    assert "40 of 200 captions are never read" in text
    right = float(text.split("right of all 200: ")[1].split("%")[0])
    unseen = float(text.split("was never read: ")[1].split("%")[0])
    # Chance is 0.5 %; 100 of the 1,300 steps bring some ten, and the same to captions never read.
    assert right >= 3 and unseen >= 2
