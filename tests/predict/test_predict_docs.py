"""docs/predict.md: each of its commands runs as it stands there, on images of 16 pixels."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from big_vit_lite.predict.command import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "predict.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.fixture
def files(here):
    """What the page speaks of."""
    photo = (here / "photos" / "0.jpg").read_bytes()
    (here / "cat.jpg").write_bytes(photo)
    (here / "labels.txt").write_text("cat\ndog\n")
    (here / "names.txt").write_text("cat\ndog\nowl\n")
    (here / "damaged").mkdir()
    (here / "damaged" / "a.jpg").write_bytes(photo)
    (here / "damaged" / "b.jpg").write_bytes(photo[:100])
    return here


def commands(page):
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if "big_vit_lite.predict" in line]


def test_every_command_of_the_page_runs(files, predict, records):
    ran = commands(PAGE)
    for words in ran:
        assert words[:3] == ["python", "-m", "big_vit_lite.predict"]
        predict(*(word.replace("resize(224", "resize(16") for word in words[3:]))
    assert {words[3] for words in ran} == set(COMMANDS)
    [shown] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    written = records(files / "classes.jsonl")[0]
    shown = json.loads(shown)
    assert shown.keys() == written.keys() and shown["best"][0].keys() == written["best"][0].keys()
    assert (files / "classes.html").is_file() and (files / "similar.html").is_file()
    assert len(np.load("dino.npy")) == 9 and len(np.load("rest.npy")) == 1
    for name in ("dino.npy.paths.txt", "dino.npy.json", "rest.npy.skipped.txt"):
        assert (files / name).is_file() and name.split(".npy")[1] in PAGE


def test_the_readme_shows_a_command_that_runs(files, predict):
    shown = commands(README)
    assert shown
    for words in shown:
        predict(*words[3:])
