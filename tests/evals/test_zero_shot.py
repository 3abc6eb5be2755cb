"""Zero-shot classification against closed forms: ensembling, ties, padding, devices, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_tables import NumberText, TwoTables, tables, write_table

from big_vit_lite import config, evals, parallel
from big_vit_lite.evals import zero_shot

CLASSES = 7
PROMPTS = ("{}", "1{}", "2{}")  # tokens c, 10 + c, 20 + c of class c


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """37 pictures of 7 classes, of which the last has none."""
    rows = [{"label": i % (CLASSES - 1)} for i in range(37)]
    return write_table(tmp_path_factory.mktemp("zero_shot"), rows)


def make_run(table, names=None, prompts=PROMPTS, batch_size=16, **fields):
    split = {"source": "table", "path": table, "transform": "decode", **fields}
    options = {"type": "zero_shot", "prompts": prompts, "class_names": names}
    return config.Run(
        steps=1,
        data={"batch_size": batch_size, "train": split, "val": split},
        evals={"zs": options},
    )


class Batches:
    examples, class_names = 37, ()


def build(run, devices=1, task=None):
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    return evals.build(run, task or TwoTables(), mesh, Batches, 1)


@pytest.fixture
def names(tmp_path):
    def write(*names):
        path = tmp_path / "names.txt"
        path.write_text("".join(f"{name}\n" for name in names))
        return str(path)

    return write


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def expected(params, classes=CLASSES, count=37):
    image, text = (np.asarray(params[k], np.float64) for k in ("image", "text"))
    prompts = unit(text)[[[c, 10 + c, 20 + c] for c in range(classes)]]
    scores = unit(image[:count]) @ unit(prompts.mean(1)).T
    label = np.arange(count) % (CLASSES - 1)
    rank = (scores >= scores[np.arange(count), label][:, None]).sum(1) - 1
    return scores, label, rank


@pytest.mark.parametrize("devices", [1, 8])
def test_numbers_are_those_of_averaged_unit_features(table, names, devices):
    params = tables(37, 40)
    # Prompts of very different length: their mean without normalising is another.
    params["text"] *= jnp.geomspace(0.01, 100, 40)[:, None]
    run = make_run(table, names(*range(CLASSES)))
    metrics = evals.measure(build(run, devices)[0], {"params": params}, 1)
    _, label, rank = expected(params)
    wanted = {"zs/top1": (rank < 1).mean(), "zs/top5": (rank < 5).mean()}
    wanted["zs/mean_per_class"] = np.mean([(rank < 1)[label == c].mean() for c in range(6)])
    assert metrics == pytest.approx(wanted, rel=1e-9)
    assert 0 < wanted["zs/top1"] < wanted["zs/top5"] < 1


def test_class_features_are_exact_and_not_those_of_other_means(table, names):
    params = tables(37, 40)
    params["text"] *= jnp.geomspace(0.1, 10, 40)[:, None]
    scheduled = build(make_run(table, names(*range(CLASSES))))[0]
    ours = np.asarray(scheduled.evaluation._classes.of(params), np.float64)
    text = np.asarray(params["text"], np.float64)
    rows = [[c, 10 + c, 20 + c] for c in range(CLASSES)]
    right = unit(unit(text)[rows].mean(1))
    assert np.abs(ours - right).max() < 1e-6
    for wrong in (unit(text[rows].mean(1)), unit(text)[rows].mean(1), unit(text)[rows][:, 0]):
        assert np.abs(ours - wrong).max() > 1e-2


def test_classes_of_the_same_name_tie_and_ties_lose(table, names):
    params = tables(37, 40)
    task = TwoTables()
    prompts = ("a {}.",)
    alone, twice = (
        build(make_run(table, names(*given), prompts), task=task)[0]
        for given in ((0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 0))
    )
    said = []
    metrics = [
        evals.measure(scheduled, {"params": params}, 1, say=said.append)
        for scheduled in (alone, twice, twice)
    ]
    assert said == [
        "evals.zs: classes with the same name: '0' (0, 6); they tie, and a tie counts as wrong, so "
        "that none of them is ever the first"
    ]
    scores = unit(np.asarray(params["image"][:37])) @ unit(np.asarray(params["text"])).T
    right = scores[:, :6].argmax(1) == np.arange(37) % 6
    assert right[::6].any()
    right[::6] = False  # label 0
    assert metrics[1] == metrics[2] and metrics[1]["zs/top1"] == pytest.approx(right.mean())


def test_nan_features_rank_last(table, names, tmp_path):
    params = tables(37, 40)
    params["image"] = params["image"].at[3].set(jnp.nan)
    scheduled = build(make_run(table, names(*range(CLASSES))))[0]
    metrics = evals.measure(scheduled, {"params": params}, 1, tmp_path)
    rank = expected(params)[2]
    rank[3] = CLASSES - 1
    assert metrics["zs/top1"] == pytest.approx((rank < 1).mean())
    assert metrics["zs/top5"] == pytest.approx((rank < 5).mean())
    line = json.loads((tmp_path / "zs-1.jsonl").read_text().splitlines()[3])
    assert line["rank"] == 6 and line["predicted"] is None and line["best"] == []
    wrong = json.loads((tmp_path / "zs-1-classes.jsonl").read_text().splitlines()[3])
    assert {"label": None, "name": None, "examples": 1} in wrong["taken_for"]
    # A class of NaN stands before all others.
    params = tables(37, 40)
    params["text"] = params["text"].at[16].set(jnp.nan)
    metrics = evals.measure(scheduled, {"params": params}, 1)
    assert metrics["zs/top1"] == 0 and metrics["zs/top5"] > 0


def test_files_of_examples_and_of_classes(table, names, tmp_path):
    params = {"params": tables(37, 40), "ema": tables(37, 40, seed=1)}
    scheduled = build(make_run(table, names(*range(CLASSES))), 8)[0]
    metrics = evals.measure(scheduled, params, 12, tmp_path)
    for kind, file, metric in (("params", "zs-12", "zs"), ("ema", "zs-ema-12", "zs/ema")):
        scores, label, rank = expected(params[kind])
        lines = [json.loads(x) for x in (tmp_path / f"{file}.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == list(range(37))
        assert [line["rank"] for line in lines] == rank.tolist()
        assert [line["predicted"] for line in lines] == [str(c) for c in scores.argmax(1)]
        assert lines[2]["name"].endswith("line 3 (002.png)") and lines[2]["label"] == "2"
        best = [(b["class"], b["score"]) for b in lines[5]["best"]]
        order = np.argsort(-scores[5])[:5]
        assert [c for c, _ in best] == [str(c) for c in order]
        np.testing.assert_allclose([s for _, s in best], scores[5][order], atol=1e-6)
        classes = (tmp_path / f"{file}-classes.jsonl").read_text().splitlines()
        classes = [json.loads(line) for line in classes]
        found = np.zeros((CLASSES, CLASSES), int)
        for line in classes:
            for other in line["taken_for"]:
                found[line["label"], other["label"]] = other["examples"]
            found[line["label"], line["label"]] = round((line["top1"] or 0) * line["examples"])
        matrix = np.zeros((CLASSES, CLASSES), int)
        np.add.at(matrix, (label, scores.argmax(1)), 1)
        np.testing.assert_array_equal(found, matrix)
        assert classes[6]["examples"] == 0 and classes[6]["top1"] is None
        assert matrix.trace() / 37 == pytest.approx(metrics[f"{metric}/top1"])
    assert metrics["zs/top1"] != metrics["zs/ema/top1"]


def test_class_features_are_computed_once_and_forgotten_with_the_parameters(table, names):
    """Over batches, evaluations with the same prompts, raw and averaged parameters, and steps."""
    run = make_run(table, names(*range(CLASSES)))
    run = run.model_copy(update={"evals": {"a": run.evals["zs"], "b": run.evals["zs"]}})
    first, second = build(run)
    classes = first.evaluation._classes
    assert second.evaluation._classes is classes
    encoded, real = [], classes._encode
    classes._encode = lambda params: encoded.append(float(params["text"][0, 0])) or real(params)
    state = {"params": tables(37, 40), "ema": tables(37, 40, seed=1)}
    both = [float(state[k]["text"][0, 0]) for k in state]
    numbers = [evals.measure(s, state, 1) for s in (first, second, first)]
    assert encoded == both
    assert list(numbers[0].values()) == list(numbers[1].values()) == list(numbers[2].values())
    state["params"] = tables(37, 40, seed=2)  # as a step does
    changed = evals.measure(first, state, 2)
    assert len(encoded) == 3 and changed["a/top1"] != numbers[0]["a/top1"]
    fresh = evals.measure(build(run)[0], state, 2)
    assert fresh == changed
    del state
    assert all(any(r() is None for r in kept[0]) for kept in classes._kept)
    numpy = {k: np.array(x) for k, x in tables(37, 40).items()}
    for _ in range(2):
        classes.of(numpy)  # which may change in place
    assert len(encoded) == 5


def test_labels_are_read_where_the_data_is_of_captions(tmp_path):
    rows = [{"label": "0", "caption": "0"}, {"label": "1", "caption": "1"}]
    path = write_table(tmp_path / "data", rows)
    run = make_run(path, prompts=("{}",), batch_size=2, text="tokenize('bytes')|pad(9)")
    metrics = evals.measure(build(run)[0], {"params": tables(2, 30)}, 1)
    assert set(metrics) == {"zs/top1", "zs/mean_per_class"}


def test_what_is_refused(table, names):
    with pytest.raises(config.InputError, match=r"evals\.zs\.prompts: '10000 0': the caption has"):
        build(make_run(table, names(*range(CLASSES)), prompts=("10000 {}",)))
    unlabelled = {"text": "lower|tokenize('bytes')|pad(9)"}
    with pytest.raises(config.InputError, match=r"data\.val\.label_key: .* no field 'label'"):
        build(make_run(write_unlabelled(table), **unlabelled))
    tokens = zero_shot.tokenized(NumberText(), ("3", "4"), ("{}", "1{}"), "key")
    assert tokens[:, 0].tolist() == [3, 13, 4, 14]


def write_unlabelled(table):
    path = table.replace("rows.jsonl", "captions.jsonl")
    with open(path, "w") as file:
        file.write(json.dumps({"path": "000.png", "caption": "1"}) + "\n")
    return path
