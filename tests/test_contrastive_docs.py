"""docs/contrastive.md: its commands are assembled or run at a tiny size; its table is the log's."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pairs
import pytest
import test_docs

from big_vit_lite import assembly, checkpoint, checks, config, describe, evaluate, optim, tasks
from big_vit_lite.config import fields

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "contrastive.md"
TRAIN = ["python", "-m", "big_vit_lite.train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folders that the page names: pairs, and checkpoints of random towers."""
    root = tmp_path_factory.mktemp("page")
    for name in ("configs", "tools"):
        (root / name).symlink_to(ROOT / name)
    for name in ("clip_b32", "lit_b16"):
        run = read([f"--config={ROOT / 'configs' / name}.py:tiny"], checks=()).run
        shapes = {"image": ((16, 16, 3), np.uint8), "text": ((32,), np.int32)}
        spec = {k: jax.ShapeDtypeStruct((16, *s), dtype) for k, (s, dtype) in shapes.items()}
        task = tasks.build(run, tasks.build_model(run, spec, 0, "cpu"))
        where = root / "runs" / {"clip_b32": "clip", "lit_b16": "vit"}[name]
        said = {"config": run.to_json(), "text": describe.text(task.text)}
        with checkpoint.Keeper(where) as keeper:
            keeper.save(4, {"params": pairs.random_params(task)}, said)
    return root


def blocks():
    before, test_docs.PAGE = test_docs.PAGE, PAGE
    try:
        return [block for block in test_docs.blocks() if block.language == "bash"]
    finally:
        test_docs.PAGE = before


def commands(*notes):
    found = (block for block in blocks() if block.note in notes)
    return [words for block in found for words in test_docs.commands(block.text)]


def read(arguments, checks):
    return config.command_line(arguments, program="", about="", checks=checks)


SIZES = (
    *("--config.data.batch_size", "--config.epochs", "--config.model.variant"),
    *("--config.text.variant", "--config.joint.features"),
)
"""What a tiny run has of its own."""


@pytest.mark.parametrize("words", commands(""), ids=lambda words: " ".join(words[4:])[:60])
def test_trainings_are_understood_and_assembled(words, folder, monkeypatch):
    """In full as far as a config alone can tell; at a tiny size up to what would be compiled."""
    assert words[:3] == TRAIN
    monkeypatch.chdir(folder)
    static = (checks.sizes, checks.transforms, checks.images)
    whole = read(words[3:], static).run
    assert whole.task.name in ("contrastive", "coca")
    arguments = [a for a in test_docs.tiny(words[3:]) if not a.startswith(SIZES)]
    arguments = [re.sub(r",features=\w+", "", a) for a in arguments]
    arguments = [re.sub(r"(progressive=.*), 128\)", r"\1, 8)", a) for a in arguments]
    run = read(arguments, checks.STATIC).run
    parts = assembly.assemble(run)
    made = optim.build(run, assembly.abstract_params(parts), parts.steps, parts.batches.examples)
    assembly.earlier_tasks(parts)
    said = " ".join(words)
    assert (made.factors is not None) == ("lr_rules" in said or "lit_b16" in said)
    assert (parts.task.teacher is not None) == ("task.teacher" in said)


def test_what_is_marked_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    compute, measure = commands("run")
    assert compute[:2] == ["python", "tools/precompute_features.py"]
    main = test_docs.tool("precompute_features").main
    # The tiny config has no init, as it has no files at all.
    assert config.exit_code(main, [*test_docs.tiny(compute[2:]), "--config.init=runs/vit"]) == 0
    assert capsys.readouterr().out.startswith("features: 64 examples of train, each with features(")
    assert evaluate.main(test_docs.tiny(measure[3:])) == 0
    assert "val/text_to_image/r1 " in capsys.readouterr().out
    assert len((folder / "predictions" / "val-4.jsonl").read_text().splitlines()) == 40
    words = next(words for words in commands("") if ",features=" in words[4])
    run = read(test_docs.tiny(words[3:]), checks.STATIC).run
    parts = assembly.assemble(run)
    assert parts.batches.spec["features"].shape == (16, 32)


def test_the_table_of_memory_is_the_logs():
    log = json.loads((ROOT / "results" / "contrastive_memory.json").read_text())
    assert log["command"] in PAGE.read_text()
    planned = {
        (row["batch"], row["loss"], row["form"]): round(row["temporaries_mib"])
        for row in log["rows"]
    }
    rows = re.findall(r"^\| ([\d,]+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 5
    order = [
        (loss, form) for loss in ("softmax", "sigmoid") for form in ("full", "chunked", "ring")
    ]
    for batch, cells in rows:
        told = [int(cell.replace(",", "")) for cell in cells.split(" | ")]
        assert told == [planned[int(batch.replace(",", "")), *column] for column in order]


def test_fields_that_the_page_names_are_there():
    for name in re.findall(r"`((?:optim|task|model|data\.train|joint)\.\w+)`", PAGE.read_text()):
        assert fields.find(tuple(name.split(".")))[0], name
