"""Two processes train and evaluate as one does; checkpoints go from any number to any other."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import several
from PIL import Image

from big_vit_lite import checkpoint, evaluate
from big_vit_lite.checkpoint import arrays
from big_vit_lite.config import InputError
from big_vit_lite.parallel import cluster
from big_vit_lite.train import main

QUICKSTART = str(several.ROOT / "configs" / "quickstart.py:tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """48 images of three classes, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(48):
        path = folder / "abc"[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    return folder


def options(images, workdir, steps, *more):
    splits = [
        f"--config.data.{split}.{field}"
        for split in ("train", "val")
        for field in ("source=folder", f"path={images}", "part=", "transform=decode(channels=1)")
    ]
    return ["--config", QUICKSTART, "--workdir", str(workdir), f"--config.steps={steps}", *splits,
            "--config.data.batch_size=16", "--config.report.every=1", "--config.evals.val.every=2",
            "--config.optim.schedule=constant", "--config.optim.warmup=0", "--config.optim.ema=0.9",
            "--config.model.dropout=0.1", "--config.task.mixup=0.3", "--config.model.depth=1",
            *more]  # fmt: skip


def rows(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(("speed/", "memory/"))}
        for line in lines
    ]


def stored(directory):
    directory = checkpoint.find(directory)
    wanted = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in checkpoint.read_meta(directory)["arrays"].items()
    }
    return {name: np.asarray(x) for name, x in arrays.load(directory, wanted).items()}


def test_two_processes_train_evaluate_and_resume_as_one(images, tmp_path, store, capfd):
    assert main(options(images, tmp_path / "one", 6)) == 0
    workdir, said = tmp_path / "two", tmp_path / "output"
    remote = "gs://bucket/two" if importlib.util.find_spec("gcsfs") else str(tmp_path / "again")
    train = options(images, workdir, 2, "--config.mesh.fsdp=2")
    evaluated = options(images, tmp_path / "evaluated", 2, "--checkpoint", str(workdir))
    two = several.in_turn(
        2, 4, said,
        ["big_vit_lite.train", *train],
        ["big_vit_lite.evaluate", *evaluated, "--config.mesh.fsdp=2"],
        ["save_again", workdir / "checkpoints", f"{remote}/checkpoints"],
    )  # fmt: skip
    assert several.wait(two) == [0, 0], several.output(said, 0) + several.output(said, 1)
    # One of everything, and the second process writes and says nothing.
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert (workdir / "config.json").is_file() and (workdir / "curve.png").is_file()
    # (Lines of the collectives library can be torn, as two threads write them at once.)
    assert "done: " in several.output(said, 0)
    assert not re.search(r"step|done|compiled|val/", several.output(said, 1))
    for ours, theirs in zip(rows(workdir), rows(tmp_path / "one"), strict=False):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert rows(workdir)[-1]["val/bad_examples"] == 1

    # `evaluate` of two processes gives the numbers of one, and those that training gave.
    numbers = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert evaluate.main([*evaluated, "--workdir", str(tmp_path / "alone")]) == 0
    alone = json.loads((tmp_path / "alone" / "evaluation.json").read_text())
    trained = {key: value for key, value in rows(workdir)[-1].items() if key in numbers}
    assert numbers.keys() == alone.keys() == trained.keys() >= {"val/top1", "val/ema/loss"}
    assert numbers == pytest.approx(alone, rel=1e-6) and numbers == pytest.approx(trained, rel=1e-6)

    first, second = stored(workdir), stored(remote)
    assert first.keys() == second.keys() and len(first) > 60
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)

    assert main(options(images, workdir, 4, "--config.mesh.data=8")) == 0  # here: one with 8
    more = ("--config.mesh.fsdp=4", "--config.mesh.data=1")
    two = several.start("big_vit_lite.train", 2, 2, said, *options(images, workdir, 6, *more))
    assert several.wait(two) == [0, 0], several.output(said, 0) + several.output(said, 1)
    assert [row["step"] for row in rows(workdir)] == list(range(1, 7))
    for ours, theirs in zip(rows(workdir), rows(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    bad = checkpoint.read_meta(workdir)["bad_examples"]
    assert bad == checkpoint.read_meta(tmp_path / "one")["bad_examples"] and bad["count"] == 1


def test_place_is_taken_from_options_then_environment_then_slurm(monkeypatch):
    by_hand = {"coordinator": "10.0.0.1:8476", "processes": 4, "process": 3}
    assert cluster.find_place(by_hand, {}) == ("10.0.0.1:8476", 4, 3, None)
    environment = {
        "JAX_COORDINATOR_ADDRESS": "a-0.a:1234",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
    }
    assert cluster.find_place({}, environment) == ("a-0.a:1234", 2, 1, None)
    assert cluster.find_place({"process": 0}, environment)[2] == 0
    assert cluster.find_place({}, {}) is None
    slurm = {"JOB_ID": "77", "STEP_NODELIST": "node[07-08]", "NTASKS": "2", "PROCID": "1",
             "LOCALID": "0", "STEP_NUM_NODES": "2"}  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert cluster.find_place({}, {}) == ("node07:61517", 2, 1, None)  # all devices of the node
    assert cluster.find_place({"coordinator": "x:1"}, {}) == ("x:1", 2, 1, None)
    monkeypatch.setenv("SLURM_NTASKS", "16")
    monkeypatch.setenv("SLURM_LOCALID", "5")
    assert cluster.find_place({}, {}).devices == [5]  # eight tasks a node: one device each
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert cluster.find_place({}, {}) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--coordinator", "10.0.0.1"], "--coordinator"),
        (["--processes", "2"], "there is --processes 2, but no --coordinator and no --process:"),
        (["--process", "-1"], "wants this process's own number, from 0 on"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"],
         "--process 2 is not among the 2 processes, which are counted from 0 to 1"),
        (["--processes", "1", "--process", "3"],
         "--process 3 contradicts --processes 1: the only process of a run is number 0; leave "),
    ],
)  # fmt: skip
def test_a_place_half_told_is_one_sentence(arguments, text, tmp_path, capsys):
    assert main(["--config", QUICKSTART, "--workdir", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and "Traceback" not in error


def test_the_only_process_of_a_run_is_number_0():
    told = {"JAX_COORDINATOR_ADDRESS": "a-0.a:1234", "JAX_PROCESS_ID": "3"}
    with pytest.raises(InputError, match="--process 3 contradicts --processes 1"):
        cluster.find_place({}, told | {"JAX_NUM_PROCESSES": "1"})
    assert cluster.find_place({"processes": 1, "process": 0}, {}) is None
    # By hand, to run alone where the environment is that of a run of several.
    assert cluster.find_place({"processes": 1}, told | {"JAX_NUM_PROCESSES": "4"}) is None


def test_a_wrong_variable_is_named():
    with pytest.raises(InputError, match=r'\$JAX_NUM_PROCESSES = "two": wants a whole number'):
        cluster.find_place({}, {"JAX_NUM_PROCESSES": "two"})


@pytest.mark.slow
def test_two_processes_learn_pairs_as_one(tmp_path):
    """Each has half of the images and texts; the ring and the cached features go over both."""

    def pairs(workdir):
        config = several.ROOT / "configs" / "siglip_b16.py:tiny"
        more = ("task.form=ring", "optim.accumulate=2", "mesh.fsdp=2", "report.every=1")
        unseen = ("report.tensorboard=false", "report.curve=false")
        given = [f"--config.{x}" for x in ("steps=2", *more, *unseen)]
        return ["--config", str(config), "--workdir", str(workdir), *given]

    two = several.start("big_vit_lite.train", 2, 4, tmp_path / "said", *pairs(tmp_path / "two"))
    assert main(pairs(tmp_path / "one")) == 0
    assert several.wait(two) == [0, 0], several.output(tmp_path / "said", 0)
    ours, theirs = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() and "train/logit_bias" in one
        assert other == pytest.approx(one, rel=1e-5)
    assert "val/image_to_text/r1" in ours[-1]
