"""Bad examples: replaced in training as a function of the seed, masked in evaluation, counted."""

import json
import pickle

import cv2
import jax
import numpy as np
import pytest
from pictures import photo

from big_vit_lite import config, data
from big_vit_lite.config import Data, InputError, RunError, Split
from big_vit_lite.data.examples import TRIES, Examples, Skipped
from big_vit_lite.data.sources import Source
from big_vit_lite.data.sources.base import BadExample
from big_vit_lite.data.transforms import parse
from big_vit_lite.evaluate import main as evaluate
from big_vit_lite.train import main as train


@pytest.fixture
def folder(tmp_path):
    """Two classes of 12 small photographs; ant/03.jpg is cut off and ant/04.jpg is empty."""
    for c, name in enumerate(("ant", "bee")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.roll(photo(), 37 * (12 * c + i), axis=0)
            encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
            (tmp_path / "photos" / name / f"{i:02}.jpg").write_bytes(encoded)
    bad = tmp_path / "photos" / "ant" / "03.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    (tmp_path / "photos" / "ant" / "04.jpg").write_bytes(b"")
    return tmp_path / "photos"


def split(folder, **options):
    return Split(source="folder", path=str(folder), transform="decode|to_size(16)|flip", **options)


def stream(folder, batch_size=24, seed=0, threads=2, **options):
    settings = Data(batch_size=batch_size, train=split(folder, **options), threads=threads)
    return data.train_stream(settings, seed)


def test_a_bad_example_is_replaced_by_the_same_one_whatever_the_batch_and_the_threads(folder):
    whole = stream(folder).host_block(0)
    assert sorted(s.name for s in whole.skipped) == [f"{folder}/ant/0{i}.jpg" for i in (3, 4)]
    assert whole.arrays["image"].any(axis=(1, 2, 3)).all()
    small = [stream(folder, 8).host_block(i) for i in range(3)]
    assert np.array_equal(whole.arrays["image"], np.concatenate([s.arrays["image"] for s in small]))
    for threads in (1, 3):
        with stream(folder, 8, threads=threads).iterate(0, 3) as batches:
            for step, batch in enumerate(batches):
                assert np.array_equal(batch["image"], small[step].arrays["image"])
                assert batches.skipped == small[step].skipped


def test_the_replacement_depends_on_seed_and_row_alone(folder):
    examples = stream(folder)._blocks.pool.members[0]
    first = [examples.replacement(3, attempt) for attempt in range(1, 5)]
    assert first == [examples.replacement(3, attempt) for attempt in range(1, 5)]
    assert first != [examples.replacement(4, attempt) for attempt in range(1, 5)]
    other = stream(folder, seed=1)._blocks.pool.members[0]
    assert first != [other.replacement(3, attempt) for attempt in range(1, 5)]
    drawn = [examples.replacement(i, a) for i in range(24) for a in range(50)]
    assert np.bincount(drawn, minlength=24).min() > 20


def test_the_row_in_the_batch_holds_image_and_label_of_the_replacement(folder):
    made = stream(folder)
    block, rows = made.host_block(0), made.indices(0)
    at = rows.tolist().index(3)
    examples = made._blocks.pool.members[0]
    place = next(p for a in range(1, 9) if (p := examples.replacement(3, a)) not in (3, 4))
    assert block.arrays["label"][at] == examples.source.labels()[place]
    plain = Examples(examples.source, parse("decode|to_size(16)"), 0)
    from big_vit_lite.data.examples import Draws

    wanted = plain.example(place, 0, Draws(0))["image"]
    found = block.arrays["image"][at]
    assert np.array_equal(found, wanted) or np.array_equal(found, wanted[:, ::-1])


def test_evaluation_masks_and_names_a_bad_example(folder):
    evaluated = data.eval_stream(split(folder), 8)
    with evaluated.iterate() as batches:
        found = [(jax.device_get(b), batches.skipped) for b in batches]
    index = np.concatenate([b["index"] for b, _ in found])
    mask = np.concatenate([b["mask"] for b, _ in found])
    assert index.tolist() == list(range(24))
    assert np.flatnonzero(~mask).tolist() == [3, 4]
    assert [s.name for _, skipped in found for s in skipped] == [
        f"{folder}/ant/0{i}.jpg" for i in (3, 4)
    ]
    assert "empty (zero bytes)" in found[0][1][1].fault


class AllBad(Source):
    class_names = ("only",)

    def __len__(self):
        return 40

    def __getitem__(self, i):
        if i == 0:
            return {"image": np.zeros((2, 2, 1), np.uint8), "label": 0}
        raise BadExample(f"row {i}: is bad")

    def labels(self):
        return np.zeros(40, int)

    def name_of(self, i):
        return f"row {i}"


def test_data_that_is_bad_throughout_ends_the_run():
    from big_vit_lite.data.blocks import Blocks, Pool
    from big_vit_lite.data.order import Shuffled

    examples = Examples(AllBad(), parse(""), 0)
    blocks = Blocks(Pool([examples]), Shuffled(40, 0), 20, evaluating=False)
    with pytest.raises(RunError, match=rf"^{TRIES} examples drawn to replace row \d+ cannot be"):
        blocks.make(0, np.arange(20))


def test_the_first_example_may_be_bad(folder):
    (folder / "ant" / "00.jpg").write_bytes(b"")
    assert stream(folder).spec["image"].shape == (24, 16, 16, 3)
    for file in folder.rglob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(BadExample, match="zero bytes"):
        stream(folder)


# Counting


def test_skips_count_names_once_and_end_the_run_beyond_the_limit():
    lines = []
    skips = data.Skips(2, lines.append)
    a, b, c = (Skipped(f"{name}.jpg", f"{name}.jpg: is empty") for name in "abc")
    skips.add((a, a, b), 5)
    skips.add((b,), 6)
    assert lines == [
        "step 5: left out a.jpg: is empty (1 of at most 2 examples)",
        "step 5: left out b.jpg: is empty (2 of at most 2 examples)",
    ]
    stored = json.loads(json.dumps(skips.to_dict()))
    assert stored == {"count": 2, "times": 4, "names": ["a.jpg", "b.jpg"]}
    again = data.Skips(2, lines.append, stored)
    again.add((a,), 7)
    with pytest.raises(RunError) as error:
        again.add((c,), 8)
    assert str(error.value) == (
        "step 8: c.jpg: is empty. With it 3 examples cannot be used, and data.skip_limit is 2; "
        "repair the data or raise the limit"
    )
    with pytest.raises(RunError, match="data.skip_limit is 0"):
        data.Skips(0, lines.append).add((a,), 1)


CONFIG = """
import ml_collections as mlc

def get_config(arg=None):
    split = dict(source="folder", path={folder!r}, transform="decode|to_size(16)")
    return mlc.ConfigDict(dict(
        steps=4, model=dict(variant="mu/8", width=16, depth=1, heads=2, mlp_dim=16),
        data=dict(batch_size=8, train=split, val=split),
        optim=dict(warmup=1), evals=dict(val=dict(every=4, predictions=True)),
        checkpoint=dict(every=2), report=dict(every=1, tensorboard=False)))
"""


def test_training_logs_counts_and_stores_them_and_resumes_with_them(folder, tmp_path, capsys):
    file, workdir = tmp_path / "run.py", tmp_path / "work"
    file.write_text(CONFIG.format(folder=str(folder)))
    argv = ["--config", str(file), "--workdir", str(workdir)]
    assert train([*argv, "--config.data.skip_limit=1"]) == 1
    assert "data.skip_limit is 1; repair the data or raise the limit" in capsys.readouterr().err
    assert train([*argv]) == 0
    said = capsys.readouterr()
    assert f"{folder}/ant/04.jpg: the image is empty" in said.out + said.err
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["train/bad_examples"] for r in rows if "train/bad_examples" in r][-1] == 2
    assert rows[-1]["val/bad_examples"] == 2
    meta = json.loads(next((workdir / "checkpoints").glob("*4*/meta.json")).read_text())
    assert meta["bad_examples"]["count"] == 2
    assert sorted(meta["bad_examples"]["names"]) == [f"{folder}/ant/0{i}.jpg" for i in (3, 4)]
    predicted = (workdir / "predictions" / "val-4.jsonl").read_text().splitlines()
    assert [json.loads(p)["index"] for p in predicted] == [0, 1, 2, *range(5, 24)]
    assert train([*argv, "--config.steps=6", "--config.data.skip_limit=2"]) == 0
    latest = json.loads(next((workdir / "checkpoints").glob("*6*/meta.json")).read_text())
    assert latest["bad_examples"]["count"] == 2
    assert latest["bad_examples"]["times"] > meta["bad_examples"]["times"]
    capsys.readouterr()
    assert evaluate(["--config", str(file), "--checkpoint", str(workdir)]) == 0
    assert "val/bad_examples 2" in capsys.readouterr().out


# What examples hold


class Captioned(Source):
    class_names = ()

    def __len__(self):
        return 5

    def __getitem__(self, i):
        captions = tuple(f"{i}{c}" for c in "abc")
        return {"image": np.full((2, 2, 1), i, np.uint8), "captions": captions}

    def labels(self):
        return np.zeros(5, int)

    def name_of(self, i):
        return f"row {i}"


class Letters:
    """Two numbers for a caption such as "3b"."""

    length = 2

    def __call__(self, caption, rng):
        return np.array([int(caption[0]), ord(caption[1]) - ord("a")], np.int32)


@pytest.mark.parametrize("captions", ["random", "each", "first"])
def test_captions_are_chosen_as_asked(captions):
    from big_vit_lite.data.examples import Draws

    examples = Examples(Captioned(), parse(""), 0, 0, Letters(), captions)
    assert examples.keys["text"] == ((2,), np.dtype(np.int32))
    assert "label" not in examples.keys
    draws = Draws(0)
    chosen = np.array(
        [[examples.example(i, v, draws)["text"] for v in range(60)] for i in range(5)]
    )
    assert (chosen[..., 0] == np.arange(5)[:, None]).all()
    if captions == "random":
        assert all(np.bincount(row, minlength=3).min() > 8 for row in chosen[..., 1])
    else:
        wanted = np.arange(60) % 3 if captions == "each" else np.zeros(60)
        assert (chosen[..., 1] == wanted).all()


def test_mixtures_of_splits_that_do_not_agree_are_refused(folder):
    train_split = split(folder)
    wrong = {
        "transform": (
            {"transform": "decode|to_size(8)"},
            r"data.mix.more makes examples of image \(8, 8, 3\)",
        ),
        "classes": (
            {"source": "synthetic", "image_size": (16, 16), "transform": ""},
            "data.mix.more has 10 classes and data.train 2, for example 'ant' in one of them only",
        ),
    }
    for options, text in wrong.values():
        more = train_split.model_copy(update=options)
        settings = Data(batch_size=4, train=train_split, mix={"more": more})
        with pytest.raises(InputError, match=text):
            data.train_stream(settings, 0)


def test_a_mixture_streams_both_sources_in_their_shares(folder):
    ants = split(folder, part="[5:12]", weight=3)
    bees = split(folder, part="[12:]")
    made = data.train_stream(Data(batch_size=8, train=ants, mix={"bees": bees}), 0)
    assert made.examples == round(7 * 4 / 3)
    labels = np.concatenate([made.host_batch(i)["label"] for i in range(10)])
    assert labels.mean() == 0.25
    rows = np.concatenate([made.indices(i) for i in range(10)])
    names = [made.name_of(r) for r in rows]
    assert all(("/bee/" in n) == bool(label) for n, label in zip(names, labels, strict=True))
    assert len({n for n in names if "/bee/" in n}) == 12


def test_blocks_travel_to_other_processes(folder):
    made = stream(folder)
    copy = pickle.loads(pickle.dumps(made._blocks))
    ours, theirs = made.host_block(2), copy.make(2, np.arange(24))
    assert ours.skipped == theirs.skipped
    assert all(np.array_equal(ours.arrays[k], theirs.arrays[k]) for k in ours.arrays)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_make_the_same_batches(folder, workers):
    settings = Data(batch_size=8, train=split(folder), threads=1, workers=workers)
    wanted = [stream(folder, 8).host_block(i) for i in range(6)]
    with data.train_stream(settings, 0).iterate(1, 6) as batches:
        for i, batch in enumerate(batches, start=1):
            assert np.array_equal(batch["image"], wanted[i].arrays["image"])
            assert np.array_equal(batch["label"], wanted[i].arrays["label"])
            assert batches.skipped == wanted[i].skipped
    assert i == 5


def test_the_config_knows_the_limit():
    assert config.Data.model_fields["skip_limit"].default == 100
