"""Evaluations of a real two-tower model, sharded or not, and of two processes as of one."""

import json
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import several
from evals.test_captions import CAPTIONS, NextTokens
from evals.test_captions import parameters as next_tokens
from two_tables import TwoTables, picture, tables, write_table

from big_vit_lite import config, data, evals, models, parallel
from big_vit_lite.data import text as captions

SIZES = {"width": 24, "depth": 1, "heads": 3, "mlp_dim": 32}
TEXT = "template('it is {}', 'look, {}')|lower|tokenize('bytes')|truncate(18)|pad(18)"
WORDS = ("red", "a green one", "blue", "a dark stone", "white and small", "grey")


class Towers:
    """The least that evaluations ask of a task, around the two-tower model."""

    def __init__(self):
        self.text = captions.parse(TEXT).without_chance()
        self.model = models.build_clip(
            config.Model(variant="mu/2", patch=2, **SIZES),
            config.Text(variant="mu", vocabulary=self.text.vocab_size, **SIZES),
            config.Joint(features=16),
            (2, 2, 3),
            self.text.length,
            "cpu",
        )

    def random_params(self):
        """Every leaf is random, so that features of different inputs differ."""
        abstract = models.abstract_params(self.model)
        rng = np.random.default_rng(0)
        return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), abstract)

    def encode_image(self, params, batch):
        images = batch["image"] / 127.5 - 1.0
        return self.model.apply({"params": params}, images, method="encode_image")[0]

    def encode_text(self, params, tokens):
        return self.model.apply({"params": params}, tokens, method="encode_text")[0]


class Batches:
    examples, class_names = 20, ()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [
        {"caption": [WORDS[i % 6], f"{WORDS[i % 5]} {i}"][: 1 + i % 2], "label": i % 3}
        for i in range(20)
    ]
    return write_table(tmp_path_factory.mktemp("towers"), rows)


def run_of(table, names, **fields):
    split = {"source": "table", "path": table, "transform": "decode"}
    zero_shot = {"type": "zero_shot", "prompts": ("a {}", "{} it is"), "class_names": names}
    return config.Run(
        steps=1,
        data={"batch_size": 8, "train": split, "val": split},
        evals={"found": {"type": "retrieval"}, "zs": zero_shot},
        **fields,
    )


def test_features_are_the_models_own(table, tmp_path, monkeypatch):
    """On 8 devices with split parameters, against the model itself on one."""
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    (tmp_path / "names.txt").write_text("cat\ndog\neel\n")
    task, mesh = Towers(), parallel.make_mesh(config.Mesh(fsdp=2))
    host = task.random_params()
    params = jax.device_put(host, parallel.state_shardings(host, mesh))
    assert not all(x.is_fully_replicated for x in jax.tree.leaves(params))

    run = run_of(table, str(tmp_path / "names.txt"))
    found, zero_shot = evals.build(run, task, mesh, Batches, 1)
    features = found.evaluation._features
    images, read = features.of_images(params, found.stream, lambda skipped: None)
    texts = features.of_captions(params, read, found.stream)
    classes = np.asarray(zero_shot.evaluation._classes.of(params))

    said = [[WORDS[i % 6], f"{WORDS[i % 5]} {i}"][: 1 + i % 2] for i in range(20)]
    prompts = [
        f(name) for name in ("cat", "dog", "eel") for f in ("a {}".format, "{} it is".format)
    ]
    pictures = data.eval_stream(run.data.val, 20).host_batch(0)
    both = jax.jit(lambda p, batch, text: (task.encode_image(p, batch), task.encode_text(p, text)))
    plain = captions.parse(TEXT.split("|", 1)[1])  # captions go into a template, prompts do not
    lines = [*(f"it is {caption}" for caption in sum(said, [])), *prompts]
    tokens = np.stack([plain(line, np.random.default_rng(0)) for line in lines])
    image, text = jax.device_get(both(host, {"image": pictures["image"]}, tokens))
    assert np.abs(images.features - image).max() < 1e-5
    assert images.index.tolist() == list(range(20))
    assert np.abs(texts.features - text[:-6]).max() < 1e-5
    assert texts.index.tolist() == [i for i, lines in enumerate(said) for _ in lines]
    mean = text[-6:].reshape(3, 2, -1).mean(1)
    assert np.abs(classes - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() < 1e-5

    metrics = evals.measure(zero_shot, {"params": params}, 1)
    right = (image @ classes.T).argmax(1) == np.arange(20) % 3
    assert metrics["zs/top1"] == pytest.approx(right.mean())


IMAGES = 41
SCRIPT = """
    import json, sys
    import jax
    from big_vit_lite import parallel

    folder, *where = sys.argv[1:]
    given = dict(zip(where[::2], where[1::2]))
    parallel.join({"coordinator": given["--coordinator"], "processes": 2,
                   "process": int(given["--process"])})
    import importlib.util
    spec = importlib.util.spec_from_file_location("test_two_towers", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metrics, said = module.measured(folder)
    print(json.dumps([metrics, said]))
"""


def measured(folder):
    """All evaluations of tables, on all devices; and what was said."""
    split = {"source": "table", "path": f"{folder}/data/rows.jsonl", "transform": "decode"}
    options = {
        "found": {"type": "retrieval"},
        "zs": {"type": "zero_shot", "class_names": f"{folder}/names.txt", "prompts": ("{}", "1{}")},
        "c": {"type": "choices", "file": f"{folder}/choices.json", "images": f"{folder}/data"},
    }
    run = config.Run(
        steps=1,
        data={"batch_size": 16, "train": split, "val": split, "skip_limit": 2},
        evals=options,
    )
    mesh, said = parallel.make_mesh(run.mesh), []
    whole = parallel.replicated(mesh)

    def shared(params):
        return {
            k: jax.make_array_from_callback(x.shape, whole, lambda index, x=x: np.asarray(x)[index])
            for k, x in params.items()
        }

    metrics, files = {}, Path(folder, str(mesh.size))
    for scheduled in evals.build(run, TwoTables(), mesh, Batches, 1):
        state = {"params": shared(tables(IMAGES, 130))}
        metrics |= evals.measure(scheduled, state, 1, files, said.append)
    split = split | {"path": f"{folder}/captions/rows.jsonl"}
    run = config.Run(
        steps=1,
        data={"batch_size": 8, "train": split, "val": split},
        evals={"t": {"type": "captions", "predictions": True}},
    )
    (scheduled,) = evals.build(run, NextTokens(), mesh, Batches, 1)
    state = {"params": shared(next_tokens())}
    metrics |= evals.measure(scheduled, state, 1, files, said.append)
    return metrics, said


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    rows = [
        {"caption": [str(j) for j in range(3 * i, 3 * i + 1 + (7 * i) % 3)], "label": i % 5}
        for i in range(IMAGES)
    ]
    write_table(tmp_path / "data", rows)
    write_table(tmp_path / "captions", [{"caption": lines} for lines in CAPTIONS])
    (tmp_path / "data" / "012.png").write_bytes(b"no picture")
    (tmp_path / "names.txt").write_text("0\n1\n2\n3\n4\n")
    entries = [{"image": picture(tmp_path / "data", i), "captions": [str(i), "77"]}
               for i in (0, 40, 3)]  # fmt: skip
    (tmp_path / "choices.json").write_text(json.dumps(entries))
    script = tmp_path / "measure.py"
    script.write_text(f"FILE = {__file__!r}\n" + textwrap.dedent(SCRIPT))
    two = several.start(script, 2, 2, tmp_path / "said", tmp_path)
    metrics, said = measured(str(tmp_path))
    assert metrics["found/bad_examples"] == metrics["zs/bad_examples"] == 1
    assert several.wait(two, 120) == [0, 0], several.output(tmp_path / "said", 0)
    for i in range(2):
        theirs, heard = json.loads(several.output(tmp_path / "said", i).splitlines()[-1])
        assert theirs == metrics
        assert heard == said
    assert "t/nll" in metrics and "t/exact" in metrics
    for file in ("found-1", "zs-1", "zs-1-classes", "c-1", "t-1"):
        ours, theirs = (tmp_path / devices / f"{file}.jsonl" for devices in ("8", "4"))
        assert ours.read_text() == theirs.read_text() and ours.stat().st_size > 100
