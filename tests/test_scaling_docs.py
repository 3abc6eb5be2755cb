"""docs/scaling.md: its commands run at a tiny size, or are at least understood; its keys exist."""

import json
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import test_docs

from big_vit_lite import checks, config, evaluate, parallel, plan, train
from big_vit_lite.report.profile import PROFILE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scaling.md"


@pytest.fixture
def blocks(monkeypatch):
    monkeypatch.setattr(test_docs, "PAGE", PAGE)
    return [block for block in test_docs.blocks() if block.language == "bash"]


def lines(blocks):
    return [words for block in blocks for words in test_docs.commands(block.text)]


def tiny(words):
    at = words.index("--config") + 1
    return [*words[:at], words[at] + ":tiny", *words[at + 1 :]]


def test_what_is_marked_runs_and_the_table_has_every_key(blocks, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    marked = lines([block for block in blocks if block.note == "run"])
    assert len(marked) == 3
    for words in marked:
        if words[1:3] == ["-m", "big_vit_lite.train"]:
            assert train.main([*tiny(words[3:]), "--config.evals={}"]) == 0
        else:
            tool = test_docs.tool(Path(words[1]).stem)
            assert config.exit_code(tool.main, words[2:]) == 0
    assert "by layer" in capfd.readouterr().out
    rows = (tmp_path / "runs" / "traced" / "metrics.jsonl").read_text().splitlines()
    keys = {key for row in rows for key in json.loads(row)}
    named = set(re.findall(r"`((?:train|speed|memory)/\w+)`", PAGE.read_text()))
    logged = {key for key in keys if key.startswith(("speed/", "memory/"))}
    assert logged <= named
    assert named - keys <= {"train/bad_examples"}


OPTIONS = {
    "big_vit_lite.train": (PROFILE, *parallel.OPTIONS, *plan.OPTIONS),
    "big_vit_lite.evaluate": evaluate.OPTIONS,
}


def test_the_other_commands_would_be_understood(blocks):
    """Every one is read and checked in full, for the devices it names or 8."""
    seen = Counter()
    for words in lines(blocks):
        if words[:2] != ["python", "-m"]:
            continue
        told: dict = {}
        config.command_line(
            words[3:],
            program="",
            about="",
            options=OPTIONS[words[2]],
            checks=(
                checks.sizes,
                checks.transforms,
                checks.images,
                checks.devices(lambda run, t=told: t["topology"].devices if "topology" in t else 8),
            ),
            begin=told.update,
        )
        seen[words[2]] += 1
    assert seen["big_vit_lite.train"] >= 9 and seen["big_vit_lite.evaluate"] >= 1


def test_scripts_of_the_page_are_bash_and_name_files_that_are_there(blocks):
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
        assert done.returncode == 0, f"line {block.line}: {shlex.quote(done.stderr)}"
    files = re.findall(r"\b(?:tools|configs)/[\w/.]+\.\w+", PAGE.read_text())
    assert len(files) > 10
    assert all((ROOT / file).is_file() for file in files), files
