"""The train command with two towers: resumes to the bit, keeps its text, learns from a teacher."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_train import results, stored

from big_vit_lite import checkpoint, config, evaluate, parallel
from big_vit_lite.checkpoint import manifest
from big_vit_lite.train import main

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "configs" / "clip_b32.py:tiny")
# Averaged weights, and a part that has no moments: what a checkpoint may hold or lack.
KEPT = (
    "--config.optim.ema=0.9",
    "--config.optim.lr_rules=(('^img/embedding', 0.0), ('.*', 1.0))",
)
GROWING = "--config.task.progressive=((2, 8),)"
# Everything that draws or keeps something, locked parts, a step of small images, parts of batches.
BUSY = (
    *KEPT,
    GROWING,
    "--config.model.patch_dropout=0.25",
    "--config.text.dropout=0.1",
    "--config.optim.accumulate=2",
    "--config.optim.parts.text.match=^txt/",
    "--config.optim.parts.text.lr=0.01",
    "--config.optim.parts.text.begin=1",
)


def options(workdir, *more):
    given = ["--config", TINY, "--workdir", str(workdir), "--config.checkpoint.every=2"]
    unseen = ["--config.report.curve=false", "--config.report.tensorboard=false"]
    return [*given, *unseen, *more]


def train_and_cut(whole, cut, *more):
    """A whole run of 4 steps, and what stood on the disk when it had taken 2."""
    assert main(options(whole, *more)) == 0
    shutil.copytree(whole, cut, dirs_exist_ok=True)
    shutil.rmtree(cut / "checkpoints" / "4")
    rows = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(x for x in rows if json.loads(x)["step"] <= 2))
    assert len(rows) - len((cut / "metrics.jsonl").read_text().splitlines()) >= 2
    return whole, cut


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_and_cut(tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut"), *KEPT)


def altered(workdir, copy, change):
    """A copy of a run whose last checkpoint says other things of itself."""
    file = checkpoint.find(shutil.copytree(workdir, copy)) / "meta.json"
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))
    manifest.commit(file.parent)
    return copy


@pytest.mark.slow
def test_a_new_process_goes_on_to_the_bit(tmp_path):
    whole, cut = train_and_cut(tmp_path / "whole", tmp_path / "cut", *BUSY)
    assert checkpoint.read_meta(cut)["step"] == 2
    command = [sys.executable, "-m", "big_vit_lite.train", *options(cut, *BUSY)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (cut / "curve.png").exists()
    ours, theirs = stored(whole), stored(cut)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array, err_msg=name)
    assert results(cut) == results(whole)


def test_steps_that_are_over_are_not_compiled_again(run, tmp_path, monkeypatch, capsys):
    """Those on small images end with step 2, where the run goes on."""

    def grew(meta):
        run = json.loads(meta["config"])
        run["task"]["progressive"] = [[2, 8]]
        meta["config"] = json.dumps(run)

    def compile_training(task, optimizer, mesh, spec, seed, earlier):
        raise config.InputError(f"programs beside the last: {[last for last, _ in earlier]}")

    monkeypatch.setattr(parallel, "compile_training", compile_training)
    begun = altered(run[1], tmp_path / "begun", grew)
    for workdir, programs in ((begun, "[]"), (tmp_path / "new", "[2]")):
        assert main(options(workdir, *KEPT, GROWING, "--config.steps=6")) == 2
        assert f"programs beside the last: {programs}" in capsys.readouterr().err


def test_what_the_checkpoint_says_of_its_text(run):
    meta = checkpoint.read_meta(run[0])
    assert meta["text"] == {
        "transform": "lower|tokenize('bytes')|truncate(32)|pad(32)",
        "fingerprint": "bytes",
        "length": 32,
        "vocabulary": 259,
        "start_id": 257,
        "end_id": 258,
        "pad_id": 256,
    }
    assert meta["position_grid"] == [4, 4]
    names = meta["arrays"]
    assert not any("img/embedding" in name for name in names if name.startswith("opt_state"))
    assert any(name.startswith("ema/txt/") for name in names)


def test_evaluation_gives_the_runs_numbers_and_refuses_other_text(run, capsys, monkeypatch):
    whole, _ = run
    ours = ["--config", TINY, "--checkpoint", str(whole), *KEPT]
    assert evaluate.main(ours) == 0
    last = [row for row in results(whole) if "val/text_to_image/r1" in row][-1]
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if " " in line)
    for key, value in last.items():
        if key.startswith("val/"):
            assert float(printed[key]) == pytest.approx(value, rel=1e-5), key
    absent = ("source=tar", "path=/nowhere", "transform=decode", "caption_key=txt")
    away = [f"--config.data.train.{field}" for field in absent]
    more = ("--config.model.image_size=16", "--config.task.teacher=/nowhere/either")
    assert evaluate.main([*ours, *away, *more]) == 0
    again = capsys.readouterr().out.splitlines()
    assert dict(line.split() for line in again if " " in line) == printed
    text = "tokenize('bytes')|truncate(32)|pad(32)"
    assert evaluate.main([*ours, f"--config.data.train.text={text}"]) == 2
    assert "data.train.text" in (said := capsys.readouterr().err) and "set it back" in said
    assert evaluate.main([*ours, "--config.text.causal=false"]) == 2
    assert "text.causal" in capsys.readouterr().err
    directory = checkpoint.find(whole)
    meta = json.loads((directory / "meta.json").read_text())
    meta["text"]["fingerprint"] = "f" * 64
    monkeypatch.setattr(checkpoint, "load_params", lambda *a, **k: (None, meta))
    assert evaluate.main(ours) == 2
    assert "was trained with the vocabulary ffffffffffff" in capsys.readouterr().err


def test_another_vocabulary_under_the_same_name_is_refused(run, tmp_path, capsys):
    """On resume, and where a text tower starts from another run's."""

    def reword(meta):
        meta["text"]["fingerprint"] = "f" * 64

    changed = altered(run[1], tmp_path / "changed", reword)
    assert main(options(changed, *KEPT)) == 2
    said = "was trained with the vocabulary ffffffffffff, and "
    assert f"the run in this workdir {said}" in capsys.readouterr().err
    given = f"--config.init={changed}"
    assert main(options(tmp_path / "new", *KEPT, given)) == 2
    assert f"init: {checkpoint.find(changed)} {said}" in capsys.readouterr().err


def test_a_teacher_is_read_from_its_run_and_is_in_no_checkpoint(run, tmp_path, capsys, monkeypatch):
    asked, load_params = [], checkpoint.load_params

    def load(*arguments, which="params"):
        asked.append(which)
        return load_params(*arguments, which=which)

    monkeypatch.setattr(checkpoint, "load_params", load)
    whole = shutil.copytree(run[0], tmp_path / "whole")
    # What this run draws at random is no other reading of texts: the teacher sees the same tokens.
    drawn = "--config.data.train.text=lower|drop_words(0.1)|tokenize('bytes')|truncate(32)|pad(32)"
    given = ("--config.evals={}", drawn, "--config.steps=1", f"--config.task.teacher={whole}")
    taught = options(tmp_path, *given)
    assert main(taught) == 0
    assert asked == ["ema"]  # the averaged weights that its run kept
    row = results(tmp_path)[0]
    wanted = row["train/contrastive_loss"] + row["train/teacher_loss"]
    assert row["train/loss"] == pytest.approx(wanted, rel=1e-5)
    assert not any("teacher" in name for name in checkpoint.read_meta(tmp_path)["arrays"])
    # A teacher whose run has gone on, or back, is another one.
    shutil.rmtree(checkpoint.find(whole))
    capsys.readouterr()
    assert main([*taught[:-2], "--config.steps=2", taught[-1]]) == 2
    said = capsys.readouterr().err
    assert f"learns from the checkpoint {whole / 'checkpoints' / '4'}, and task.teacher" in said
    assert f"now holds another one, {whole / 'checkpoints' / '2'}; put that one back" in said
    text = "--config.data.train.text=tokenize('bytes')|truncate(32)|pad(32)"
    assert main([*options(tmp_path / "other", f"--config.task.teacher={whole}"), text]) == 2
    said = capsys.readouterr().err
    assert "reads texts as \"lower|tokenize('bytes')" in said and "the same tokens" in said


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (
            ["--config.text.vocabulary=258", "--config.text.end_id=none"],
            "makes ids below 259, and text.vocabulary is 258; set text.vocabulary=259",
        ),
        (["--config.text.end_id=7"], "pool end reads token 7, but data.train.text ends texts with"),
        (
            ["--config.data.train.text=tokenize('bytes', end=False)|truncate(32)|pad(32)"],
            "text.pool end reads the token that ends a text, and data.train.text adds none",
        ),
        (
            ["--config.task.progressive=((2, 9),)"],
            "task.progressive: The image height 9 is not a multiple of the",
        ),
        (
            ["--config.task.progressive=((1, 8), (2, (16, 24)))"],
            "task.progressive: 2 has images of 16x24, and data.train.transform makes them 16x16",
        ),
        (["--config.data.batch_size=4096"], "data.batch_size is 4,096 and data.train has"),
        (
            ["--config.data.val.text=tokenize('bytes')|truncate(3)|pad(3)"],
            "is not read: evaluations make tokens as data.train.text does; leave it out",
        ),
        (["--config.text.length=20"], "text.length is 20, but the texts have 32 tokens"),
    ],
)
def test_texts_and_images_that_do_not_fit_are_refused(more, error, tmp_path, capsys):
    assert main(options(tmp_path, *more)) == 2
    assert error in capsys.readouterr().err
