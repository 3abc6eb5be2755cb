"""Features of a locked tower, computed once: the same training as on the images."""

import importlib.util
import io
import json
from pathlib import Path

import jax
import numpy as np
import pairs
import pytest

from big_vit_lite import checkpoint, config, models, tasks, train, weights
from big_vit_lite.data import sources

ROOT = Path(__file__).parents[2]
TINY = f"{ROOT / 'configs' / 'lit_b16.py'}:tiny"


def tool():
    path = ROOT / "tools" / "precompute_features.py"
    spec = importlib.util.spec_from_file_location("precompute_features", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def main():
    return tool().main


def load():
    return config.command_line(["--config", TINY], program="", about="").run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A checkpoint of both towers, every leaf random; the task, the parameters."""
    folder, run = tmp_path_factory.mktemp("stored"), load()
    shapes = {"image": ((16, 16, 3), np.uint8), "text": ((32,), np.int32)}
    spec = {k: jax.ShapeDtypeStruct((16, *shape), dtype) for k, (shape, dtype) in shapes.items()}
    task = tasks.build(run, tasks.build_model(run, spec, 0, "cpu"))
    params = pairs.random_params(task)
    with checkpoint.Keeper(folder) as keeper:
        keeper.save(5, {"params": params}, {"config": run.to_json()})
    return folder, task, params


def read(folder):
    split = config.Split(
        source="arrayrecord", path=str(folder), split="train", transform="features(32)", text="x"
    )
    source = sources.build(split)
    features = [np.load(io.BytesIO(example["image"])) for example in source]
    return np.stack(features), [example["captions"] for example in source]


@pytest.fixture(scope="module")
def options(stored):
    return ["--config", TINY, "--checkpoint", str(stored[0]), "--shards", "2", "--batch_size", "24"]


@pytest.fixture(scope="module")
def made(main, options, tmp_path_factory):
    """Features by type, computed on 8 devices."""
    folder = tmp_path_factory.mktemp("made")
    for dtype in ("float32", "float16"):
        main([*options, "--out", str(folder / dtype), "--dtype", dtype])
    return folder


def test_vectors_are_the_towers_of_every_example(stored, made):
    _, task, params = stored
    images = sources.build(load().data.train)
    pixels = np.stack([np.repeat(example["image"], 3, axis=2) for example in images])
    seen = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    tower = models.image_tower(task.model)
    wanted = np.asarray(jax.jit(tower.apply)({"params": params["img"]}, seen)[0])
    found, captions = read(made / "float32")
    assert found.dtype == np.float32 and np.linalg.norm(wanted, axis=1).std() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    assert captions == [example["captions"] for example in images]
    half, _ = read(made / "float16")
    np.testing.assert_array_equal(half, found.astype(np.float16))


def test_started_again_it_finds_all_and_mixes_with_no_other(main, options, made, capsys):
    again = [*options, "--out", str(made / "float16")]
    main(again)
    out, err = capsys.readouterr()
    assert "2 of 2 shards are there already" in err
    assert out == f"{made / 'float16'}: 64 examples of train, each with features(32) in float16\n"
    with pytest.raises(config.InputError, match=r"dtype was float16 and is float32"):
        main([*again, "--dtype", "float32"])
    with pytest.raises(config.InputError) as caught:
        main([*again, "--config.data.std=(0.25,)"])
    assert "data.std = (0.25,): the checkpoint was trained with (0.5,)" in str(caught.value)


def test_a_tower_in_a_file_of_published_weights(main, stored, made, tmp_path):
    """The same tower, alone, as a house that has no text tower writes it."""
    run, params = load(), dict(stored[2]["img"])
    section = run.model.model_copy(update={"classes": None, "position_grid": (4, 4)})
    file = weights.save(tmp_path / "vit.npz", params, weights.Sections(section), "big-vision-vit")
    rules = (("^txt/|^[tb]$", "skip"), ("^(.*)", r"img/\1"))  # as configs/lit_b16.py has them
    options = [f"--config.init={file}", f"--config.init_rules={rules}"]
    options += ["--out", str(tmp_path / "made"), "--batch_size", "24", "--dtype", "float32"]
    main(["--config", TINY, *options])
    np.testing.assert_allclose(read(tmp_path / "made")[0], read(made / "float32")[0], atol=1e-6)


@pytest.mark.slow
def test_training_on_them_is_training_on_the_images(stored, made, tmp_path, monkeypatch):
    losses = {}
    for name in ("images", "float32"):
        features = "" if name == "images" else f",features={made / name}"
        workdir = tmp_path / f"run_{name}"
        given = [f"--config.init={stored[0]}", "--config.steps=2", "--config.evals={}"]
        given.append("--config.report.tensorboard=false")
        assert train.main(["--config", TINY + features, "--workdir", str(workdir), *given]) == 0
        rows = (workdir / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(row)["train/loss"] for row in rows]
    assert losses["float32"] == pytest.approx(losses["images"], rel=1e-5)
    assert losses["images"][0] != pytest.approx(losses["images"][1], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--config.data.train.transform=decode(channels=3)|flip"],
            "data.train.transform 'decode(channels=3)|flip' draws at random, and features are "
            "computed once; take out what is random, as in "
            '--config.data.train.transform="decode|resize(224)"',
        ),
        ([], "there is no tower to compute with: name a checkpoint of both towers with"),
        (["--data", "test"], "--data: the config has no split 'test'; there are train, val"),
        (["--batch_size", "12"], "--batch_size is 12, which does not divide over 8 devices"),
        (
            ["--config.init=STORED", "--config.init_rules=(('^img/head/', 'skip'),)",
             "--config.joint.projections=both"],
            "init_rules leave img/head/kernel as it is drawn",
        ),
    ],
    ids=["random", "no tower", "no split", "batch", "half a tower"],
)  # fmt: skip
def test_what_is_refused(main, stored, tmp_path, options, said):
    options = [option.replace("STORED", str(stored[0])) for option in options]
    with pytest.raises(config.InputError) as caught:
        main(["--config", TINY, "--out", str(tmp_path / "out"), *options])
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "the image tower STORED (DIGEST), and this run has a new one: name that tower in"),
        (["--config.init=OTHER"], "holds features of the image tower STORED (DIGEST), and init"),
        (["--config.init=STORED", "--config.data.mean=(0.4,)"],
         "data.mean is [0.4], and the features of data.train were computed with [0.5]"),
        (["--config.init=STORED", "--config.optim.lr_rules=((\".*\", 1.0),)"],
         "which give img/Transformer/encoder_norm/bias no gradient, and weight decay would wear"),
    ],
    ids=["no tower", "another tower", "pixels", "not locked"],
)  # fmt: skip
def test_features_that_are_not_this_runs_are_refused(stored, made, tmp_path, capsys, more, said):
    folder, task, _ = stored
    with checkpoint.Keeper(tmp_path / "other") as keeper:
        state = {"params": pairs.random_params(task, 1)}
        keeper.save(5, state, {"config": load().to_json()})
    told = json.loads((made / "float32" / "checksums.json").read_text())["prepared"]["train"]
    digest = told["tower"].rpartition("(")[2].rstrip(")")
    words = {"STORED": str(folder), "OTHER": str(tmp_path / "other"), "DIGEST": digest}
    for word, value in words.items():
        said = said.replace(word, value)
        more = [option.replace(word, value) for option in more]
    given = ["--config", f"{TINY},features={made / 'float32'}", "--workdir", str(tmp_path / "run")]
    given += ["--config.steps=1", "--config.evals={}", "--config.report.tensorboard=false"]
    assert train.main([*given, *more]) == 2
    assert said in capsys.readouterr().err
