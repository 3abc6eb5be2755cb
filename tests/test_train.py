"""The train command: resumes to the bit, stops when asked, refuses what it must."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pkgutil import resolve_name

import jax
import numpy as np
import pytest

from big_vit_lite import checkpoint, evals, evaluate, parallel, train
from big_vit_lite.checkpoint import arrays
from big_vit_lite.report import Pace
from big_vit_lite.train import main

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart.py:tiny")
NOISY = (  # everything that draws random numbers or keeps state
    "--config.model.dropout=0.1",
    "--config.model.stochastic_depth=0.2",
    "--config.task.mixup=0.3",
    "--config.optim.ema=0.9",
    "--config.optim.clip_norm=1.0",
    "--config.optim.weight_decay=0.1",
)


def options(workdir, *more, config=QUICKSTART):
    return ["--config", config, "--workdir", str(workdir), *more]


def stored(workdir, step=None):
    """Every array of a checkpoint by name, as bytes on the disk say."""
    directory = Path(workdir) / "checkpoints" / str(step) if step else checkpoint.find(workdir)
    listing = checkpoint.read_meta(directory)["arrays"]
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=sharding)
        for name, (dtype, shape) in listing.items()
    }
    return {name: np.asarray(x) for name, x in arrays.load(directory, wanted).items()}


def rows(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def results(workdir):
    """Rows without what a clock or the machine's memory says."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("speed/", "memory/"))}
        for row in rows(workdir)
    ]


def start(workdir, *more):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "big_vit_lite.train", *options(workdir, *more)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_step(workdir, step, process, seconds=120):
    file = Path(workdir) / "metrics.jsonl"
    for _ in range(int(seconds / 0.02)):
        text = file.read_text() if file.exists() else ""
        complete = [line for line in text.split("\n")[:-1] if line]
        if complete and json.loads(complete[-1])["step"] >= step:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    raise AssertionError(f"step {step} not reached: {process.communicate(timeout=5)}")


def test_killed_and_stopped_runs_end_bitwise_where_an_uninterrupted_one_does(tmp_path):
    more = (
        *NOISY,
        "--config.steps=120",
        "--config.checkpoint.every=10",
        "--config.report.every=1",
        "--config.evals.val.every=30",
        "--config.model.depth=4",
        "--config.data.batch_size=64",
    )
    whole = start(tmp_path / "whole", *more)
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output

    first = start(tmp_path / "cut", *more)
    wait_for_step(tmp_path / "cut", 25, first)
    first.kill()
    first.wait()
    assert checkpoint.read_meta(tmp_path / "cut")["step"] >= 10
    second = start(tmp_path / "cut", *more)
    wait_for_step(tmp_path / "cut", 60, second)
    second.send_signal(signal.SIGTERM)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 3 and "SIGTERM: saving after this step" in output, output
    stopped_at = checkpoint.read_meta(tmp_path / "cut")["step"]
    assert 60 <= stopped_at < 120
    third = start(tmp_path / "cut", *more)
    output, _ = third.communicate(timeout=300)
    assert third.returncode == 0, output

    a, b = stored(tmp_path / "whole"), stored(tmp_path / "cut")
    assert {name.split("/")[0] for name in a} == {"step", "params", "opt_state", "ema"}
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert results(tmp_path / "whole") == results(tmp_path / "cut")
    assert [row["step"] for row in rows(tmp_path / "cut")] == list(range(1, 121))
    assert (tmp_path / "cut" / "curve.png").stat().st_size > 5000


def test_saved_scanned_and_resumed_unrolled(tmp_path):
    more = (*NOISY[2:], "--config.checkpoint.every=3", "--config.report.every=1",
            "--config.optim.schedule=constant", "--config.optim.warmup=0")  # fmt: skip
    assert (
        main(options(tmp_path / "one", *more, "--config.steps=6", "--config.model.scan=false")) == 0
    )
    other = tmp_path / "other"
    assert main(options(other, *more, "--config.steps=3", "--config.model.scan=true")) == 0
    # One stored form: the scanned run's arrays have the unrolled run's names and shapes.
    assert {k: v.shape for k, v in stored(other, 3).items()} == {
        k: v.shape for k, v in stored(tmp_path / "one", 3).items()
    }
    assert main(options(other, *more, "--config.steps=6", "--config.model.scan=false")) == 0
    for ours, theirs in zip(results(other), results(tmp_path / "one"), strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
    assert main(options(other, *more, "--config.steps=7", "--config.model.scan=true")) == 0
    assert [row["step"] for row in rows(other)] == list(range(1, 8))


def test_a_signal_skips_evaluations_which_the_resumed_run_makes_up_for(
    tmp_path, monkeypatch, capfd
):
    """Of steps 2, 4 and 6, which are saved, and so judged, though none but the last is due."""
    more = ("--config.steps=6", "--config.evals.val.every=5", "--config.report.every=1",
            "--config.checkpoint.every=2", "--config.report.watchdog_s=0.2",
            "--config.checkpoint.keep=9", "--config.checkpoint.keep_best=val/top1")  # fmt: skip
    assert main(options(tmp_path / "whole", *more)) == 0
    measured = [row["step"] for row in rows(tmp_path / "whole") if "val/top1" in row]
    assert measured == [2, 4, 5, 6]
    taken = iter(range(1, 100))

    def signal_in_step_4(pace, waited, flops, original=Pace.step):
        if next(taken) == 4:
            signal.raise_signal(signal.SIGTERM)
        return original(pace, waited, flops)

    with monkeypatch.context() as patch:
        patch.setattr(Pace, "step", signal_in_step_4)
        assert main(options(tmp_path / "cut", *more)) == 3
    assert checkpoint.read_meta(tmp_path / "cut")["skipped"] == ["val"]
    assert "val/top1" in rows(tmp_path / "cut")[1] and "val/top1" not in rows(tmp_path / "cut")[3]
    # An evaluation of step 2 is no reason to call the checkpoint of step 4 the best.
    assert checkpoint.read_meta(tmp_path / "cut")["metrics"] == {}

    pauses = iter((0.6,))

    def slowly(*arguments, original=evals.measure):
        time.sleep(next(pauses, 0))
        return original(*arguments)

    renamed, replace = [], os.replace
    with monkeypatch.context() as patch:
        patch.setattr(train, "EVALUATION_PATIENCE", 2.0)
        patch.setattr(evals, "measure", slowly)
        patch.setattr(os, "replace", lambda a, b: (renamed.append(Path(b).name), replace(a, b)))
        assert main(options(tmp_path / "cut", *more)) == 0
    assert "waiting for the evaluations of step 4. The stacks" in capfd.readouterr().err
    # Files that are written anew stand whole at any moment.
    assert {"config.json", ".owner", ".metrics.json"} <= set(renamed)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    # What is made up for counts when the best is chosen, as if it had been there at the save.
    known = json.loads((tmp_path / "cut" / "checkpoints" / ".metrics.json").read_text())
    assert known == {"4": {k: v for k, v in rows(tmp_path / "cut")[3].items() if k[:4] == "val/"}}
    best = []
    for name in ("cut", "whole"):
        with checkpoint.Keeper(tmp_path / name / "checkpoints", keep_best="val/top1") as keeper:
            best.append(keeper.best)
    assert best[0] == best[1]


@pytest.mark.parametrize(
    "where", ["big_vit_lite.report.loss_watch.LossWatch.add", "big_vit_lite.evals.measure"]
)
def test_a_signal_at_any_moment_of_a_step_ends_with_a_save(tmp_path, monkeypatch, where):
    more = ("--config.steps=20", "--config.evals.val.every=3", "--config.report.every=1")
    module, name = where.rsplit(".", 1)
    owner = resolve_name(module)
    original, calls = getattr(owner, name), iter(range(1, 100))

    def with_signal(*arguments, **options):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, with_signal)
    assert main(options(tmp_path, *more)) == 3
    assert checkpoint.read_meta(tmp_path)["step"] == rows(tmp_path)[-1]["step"] < 20


def test_a_signal_in_the_last_step_is_no_reason_to_call_the_run_unfinished(tmp_path, monkeypatch):
    original, calls = Pace.step, iter(range(1, 9))

    def signal_in_step_2(pace, waited, flops):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(pace, waited, flops)

    monkeypatch.setattr(Pace, "step", signal_in_step_2)
    assert main(options(tmp_path, "--config.steps=2")) == 0
    assert "val/top1" in rows(tmp_path)[-1] and checkpoint.read_meta(tmp_path)["step"] == 2


def test_profile_traces_the_steps_asked_for(tmp_path):
    assert main(options(tmp_path, "--config.steps=4", "--config.report.profile=(1, 3)")) == 0
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_evaluate_refuses_what_would_read_the_parameters_otherwise(tmp_path, capsys):
    assert main(options(tmp_path, "--config.steps=1")) == 0
    arguments = ["--config", QUICKSTART, "--checkpoint", str(tmp_path)]
    assert (
        evaluate.main([*arguments, "--config.model.activation=erf", "--config.data.mean=(0.4,)"])
        == 2
    )
    text = capsys.readouterr().err
    assert 'model.activation = "erf": the checkpoint was trained with' in text
    assert "data.mean = (0.4,): the checkpoint was trained with" in text
    assert evaluate.main([*arguments, "--config.model.depth=1"]) == 2
    assert "  of the config: model.depth is 1 and theirs" in capsys.readouterr().err
    assert evaluate.main([*arguments[:-1], str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'no'} does not exist; give a run's")
    # What changes no number, and a head with room for more classes, is no difference.
    assert evaluate.main([*arguments, "--config.model.scan=true"]) == 0


def test_nan_names_its_step_and_examples_and_saves_nothing(tmp_path, capfd):
    more = ("--config.steps=12", "--config.checkpoint.every=1", "--config.checkpoint.keep=1",
            "--config.optim.name=sgd", "--config.optim.lr=1e18", "--config.optim.warmup=0",
            "--config.report.every=1")  # fmt: skip
    assert main(options(tmp_path, *more)) == 1
    text = capfd.readouterr().err
    step = int(text.split("\nstep ")[1].split(":")[0])
    from big_vit_lite import config, data

    run = config.load(QUICKSTART, [m.removeprefix("--config.").split("=", 1) for m in more])
    indices = ", ".join(map(str, data.train_stream(run.data, run.seed).indices(step - 1)))
    assert f"step {step}: " in text and f"[{indices}] of data.train" in text
    # What stands is the last good state; rows end before the bad step.
    assert checkpoint.read_meta(tmp_path)["step"] == step - 1
    assert all(np.isfinite(x).all() for x in stored(tmp_path).values())
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, step))


def test_evaluate_gives_what_training_printed(tmp_path, capsys):
    assert main(options(tmp_path, *NOISY, "--config.steps=4")) == 0
    trained = rows(tmp_path)[-1]
    capsys.readouterr()
    arguments = ["--config", QUICKSTART, "--checkpoint", str(tmp_path), "--workdir", str(tmp_path),
                 "--predictions", str(tmp_path / "predictions")]  # fmt: skip
    assert evaluate.main(arguments) == 0
    measured = json.loads((tmp_path / "evaluation.json").read_text())
    assert measured["step"] == 4
    keys = [key for key in trained if key.startswith("val/")]
    assert {"val/top1", "val/ema/top1", "val/loss", "val/ema/loss"} <= set(keys)
    assert {key: measured[key] for key in keys} == {key: trained[key] for key in keys}
    assert f"val/top1 {trained['val/top1']:.6g}" in capsys.readouterr().out
    assert len((tmp_path / "predictions" / "val-4.jsonl").read_text().splitlines()) > 300
    # Where the training data are not here, classes are the checkpoint's.
    fields = ("source=folder", "path=/nowhere", "transform=decode(channels=1)")
    absent = [f"--config.data.train.{field}" for field in fields] + ["--config.model.image_size=8"]
    assert evaluate.main([*arguments, *absent]) == 0
    assert "data.train is not here: its classes are the checkpoint's" in capsys.readouterr().err
    assert json.loads((tmp_path / "evaluation.json").read_text()) == measured
    assert evaluate.main([*arguments, *absent, "--config.data.val.path=/nowhere",
                          "--config.data.val.source=folder"]) == 2  # fmt: skip
    assert 'data.val.path = "/nowhere": is not there' in capsys.readouterr().err
    (tmp_path / "taken").write_text("a file")
    assert evaluate.main([*arguments[:-1], str(tmp_path / "taken")]) == 2
    told = f"--predictions: {tmp_path / 'taken'} can be made no folder (File exists)"
    assert told in capsys.readouterr().err


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys, monkeypatch):
    assert main(options(tmp_path, "--config.steps=2")) == 0
    before, printed = rows(tmp_path), capsys.readouterr().out
    monkeypatch.setattr(parallel, "compile_training", None)  # nothing is compiled for it
    assert main(options(tmp_path, "--config.steps=2")) == 0
    assert rows(tmp_path) == before and capsys.readouterr().out == printed


def test_another_config_is_refused_by_name_on_resume(tmp_path, capsys):
    assert main(options(tmp_path, "--config.steps=2")) == 0
    assert main(options(tmp_path, "--config.optim.lr=0.5", "--config.seed=3")) == 2
    text = capsys.readouterr().err
    assert "optim.lr = 0.5: the run in this workdir has" in text and "seed = 3: " in text
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0  # still the run's own


def test_init_starts_from_another_runs_parameters(tmp_path):
    assert main(options(tmp_path / "a", "--config.steps=3")) == 0
    more = (f"--config.init={tmp_path / 'a'}", "--config.steps=1", "--config.optim.name=sgd",
            "--config.optim.lr=1e-12", "--config.optim.ema=0.5")  # fmt: skip
    assert main(options(tmp_path / "b", *more)) == 0
    a, b = stored(tmp_path / "a"), stored(tmp_path / "b")
    for name in (n for n in a if n.startswith("params/")):
        np.testing.assert_allclose(b[name], a[name], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(b["ema" + name[6:]], a[name], atol=1e-6, err_msg=name)
    assert any(np.abs(a[n]).max() > 0.1 for n in a if "kernel" in n)


def test_init_with_another_head_and_grid_takes_what_rules_say(tmp_path, monkeypatch, capfd):
    assert main(options(tmp_path / "a", "--config.steps=2")) == 0
    more = (f"--config.init={tmp_path / 'a'}", "--config.steps=1", "--config.optim.lr=1e-12",
            "--config.model.classes=13", "--config.model.patch=4",
            "--config.data.train.transform=resize(12)|to_size(12)",
            "--config.data.val.transform=resize(12)|to_size(12)")  # fmt: skip
    capfd.readouterr()
    assert main(options(tmp_path / "b", *more)) == 2
    text = capfd.readouterr().err
    assert "params/head" not in text and "head/kernel: is float32[32,10] there and" in text
    assert "  of the config: model.patch is (4, 4) and theirs (2, 2)" in text
    assert "compil" not in text  # refused before
    rules = '--config.init_rules=(("^head/", "skip"), ("^embedding/", "skip"))'
    renamed, replace = [], os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: (renamed.append(Path(b).name), replace(a, b)))
        assert main(options(tmp_path / "b", *more, rules)) == 0
    assert "init.txt" in renamed  # never half of it
    text = capfd.readouterr().err
    assert "pos_embedding resized from (1, 16, 32) to (1, 9, 32)" in text
    assert f"started from {tmp_path / 'a'}: pixels normalised as theirs; " in text
    a, b = stored(tmp_path / "a"), stored(tmp_path / "b")
    name = "params/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
    np.testing.assert_allclose(b[name], a[name], atol=1e-6)
    assert b["params/head/kernel"].shape == (32, 13)
    assert f"each by name in {tmp_path / 'b' / 'init.txt'}" in text
    lines = (tmp_path / "b" / "init.txt").read_text().splitlines()
    assert "head/kernel: initial values" in lines and "(left out) head/kernel" in lines
    assert f"{name[7:]}: from {name[7:]}" in lines
    assert main(options(tmp_path / "c", *more, rules, "--config.model.activation=erf")) == 2
    assert "model.activation is erf and theirs tanh. Set these" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "configs/no_such.py"], 'config file "configs/no_such.py" does not exist'),
        (["--config", QUICKSTART, "--config.optim.lrr=1"], "did you mean optim.lr?"),
        (["--config", QUICKSTART, "--config.model.patch=3"], "8x8"),
        (
            ["--config", QUICKSTART, "--config.mesh.data=3"],
            "data 3 x fsdp 1 x tensor 1 does not make 8",
        ),
        (["--config", str(ROOT / "configs" / "vit_b16.py")], "data/imagenet"),
        (["--config", QUICKSTART, "--config.model.channels=3"], "model.channels is 3"),
        (["--config", QUICKSTART, "--config.init=/nowhere"], "/nowhere does not exist"),
        (["--config", QUICKSTART, "--config.model.classes=3"], "data.train has 10 classes"),
        (["--config", QUICKSTART, "--config.model.pool=none"], "pool cls, gap or map"),
        (
            ["--config", QUICKSTART, "--config.epochs=1", "--config.optim.warmup=5000"],
            "5,000 steps",
        ),
        (
            ["--config", QUICKSTART, "--config.data.val.transform=decode(channels=3)"],
            "evaluation val has images of 3 channels and the model 1",
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    arguments, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--workdir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert text in err and "Traceback" not in err


def test_non_square_images_of_other_channels_train(tmp_path):
    more = ("--config.data.train.source=synthetic", "--config.data.val.source=synthetic",
            *(f"--config.data.{s}.{f}" for s in ("train", "val") for f in
              ("image_size=(16, 24)", "channels=5", "transform=", "part=", "examples=32")),
            "--config.model.channels=5", "--config.model.patch=(8, 4)",
            "--config.model.classes=13", "--config.evals.val.predictions=true",
            "--config.steps=2")  # fmt: skip
    assert main(options(tmp_path, *more)) == 0
    assert stored(tmp_path)["params/embedding/kernel"].shape == (8, 4, 5, 32)
    assert stored(tmp_path)["params/pos_embedding"].shape == (1, 12, 32)
    assert stored(tmp_path)["params/head/kernel"].shape == (32, 13)  # room for more classes
    assert len((tmp_path / "predictions" / "val-2.jsonl").read_text().splitlines()) == 32
