"""Every shipped config starts: trains 2 steps, evaluates, saves, and goes on, at its tiny size."""

import json
from pathlib import Path

import pytest

from big_vit_lite import checkpoint
from big_vit_lite.train import main

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("[!_]*.py"))


def test_all_configs_are_found():
    names = {"quickstart", "cifar10", "vit_s16", "vit_b16"}
    names |= {"clip_quickstart", "clip_b32", "siglip_b16", "coca_b32"}
    assert {path.stem for path in CONFIGS} >= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_tiny_trains_evaluates_saves_and_resumes(path, tmp_path, drawn):
    options = ["--config", f"{path}:tiny", "--workdir", str(tmp_path), "--config.report.every=1"]
    assert main([*options, "--config.steps=2"]) == 0
    assert checkpoint.read_meta(tmp_path)["step"] == 2
    assert main([*options, "--config.steps=3"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    name = "val/text_to_image/r1" if "val/text_to_image/r1" in rows[1] else "val/top1"
    assert 0 <= rows[1][name] <= 1 and 0 <= rows[2][name] <= 1
    assert all(row["train/loss"] > 0 and row["speed/images_per_s"] > 0 for row in rows)
    assert (tmp_path / "tensorboard").is_dir() and (tmp_path / "curve.png").is_file()
