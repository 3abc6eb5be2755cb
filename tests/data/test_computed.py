"""Shards of features that were computed from images: written by prepare, read by features(n)."""

import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from big_vit_lite import data
from big_vit_lite.config import Data, InputError, RunError, Split
from big_vit_lite.data import prepare, prepared, sources
from big_vit_lite.data.computed import Computed

ROWS, N = 30, 6
TEXT = "tokenize('bytes')|truncate(40)|pad(40)"
PAIRS = Split(source="digit_pairs", transform="decode(channels=1)", examples=ROWS, text=TEXT)


def vector(source, row):
    """Made-up features of an image, told apart in every bit."""
    draw = np.random.default_rng(source[row]["image"].ravel())
    return draw.normal(0, 10, N).astype(np.float32)


class Tower:
    """Computes features and remembers of which rows."""

    def __init__(self, faults=()):
        self.source, self.asked, self.faults = sources.build(PAIRS), [], faults

    def __call__(self, rows):
        self.asked += rows
        for row in rows:
            yield "the tower fell over" if row in self.faults else vector(self.source, row)


def options(out, tower, to="arrayrecord", dtype="float16", made_by=None, **others):
    images = Computed(tower, N, made_by or {"tower": "runs/a"}, dtype)
    return prepare.Options(out=out, format=to, images=images, shards=3, **others)


READ = {
    "arrayrecord": {},  # its schema names the field
    "parquet": {"image_key": "features"},
    "tar": {"image_key": "npy", "caption_key": "json.captions", "label_key": "cls"},
}


def back(out, to, **given):
    given = {"transform": f"features({N})", "text": TEXT, "label_key": "label"} | READ[to] | given
    return Split(source=to, path=str(out), split="train", **given)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("to", READ)
def test_what_was_computed_is_what_trains(tmp_path, to, dtype):
    tower = Tower()
    counts = prepare.prepare(PAIRS, options(tmp_path, tower, to, dtype, workers=2), str)
    assert (counts.done, counts.skipped) == (ROWS, 0)
    assert sorted(tower.asked) == [*range(ROWS)]
    split = back(tmp_path, to)
    held, images = data.eval_stream(split, ROWS), data.eval_stream(PAIRS, ROWS)
    read, seen = held.host_batch(0), images.host_batch(0)
    wanted = np.stack([vector(tower.source, row) for row in range(ROWS)]).astype(dtype)
    assert np.array_equal(read["features"], wanted.astype(np.float32))
    assert np.array_equal(read["text"], seen["text"])
    numbers = [seen["label"][row] for row in range(ROWS)]
    told = [held.class_names[label] for label in read["label"]]
    names = [images.class_names[n] for n in numbers]
    assert told == ([str(n) for n in numbers] if to == "tar" else names)
    shuffled = data.train_stream(Data(batch_size=10, train=split), 0).host_batch(0)
    assert set(shuffled) == {"features", "text", "label"}


def test_keys_name_the_examples(tmp_path):
    for to in ("parquet", "tar"):
        prepare.prepare(PAIRS, options(tmp_path / to, Tower(), to), str)
    table = pq.read_table(sorted((tmp_path / "parquet").glob("*.parquet"))[1])
    assert table.column("key").to_pylist() == [f"digit_pairs train, row {i}" for i in range(10, 20)]
    with tarfile.open(sorted((tmp_path / "tar").glob("*.tar"))[2]) as archive:
        about = json.load(archive.extractfile("000000003.json"))
    assert about == {
        "key": "digit_pairs train, row 23",
        "captions": list(Tower().source[23]["captions"]),
    }


def test_started_again_it_computes_what_is_missing(tmp_path):
    class Fails(Tower):
        def __call__(self, rows):
            if 10 in rows:
                raise RunError("the machine was taken away")
            return super().__call__(rows)

    first, second = Fails(), Tower()
    with pytest.raises(RunError, match="taken away"):
        prepare.prepare(PAIRS, options(tmp_path, first), str)
    prepare.prepare(PAIRS, options(tmp_path, second), str)
    assert second.asked == [row for row in range(ROWS) if row not in first.asked]
    assert len(second.asked) == 20
    assert prepared.verify(tmp_path)[0] == 4  # three shards and the labels
    with pytest.raises(InputError) as error:
        prepare.prepare(PAIRS, options(tmp_path, second, made_by={"tower": "runs/b"}), str)
    assert "prepared otherwise: tower was runs/a and is runs/b; give the same" in str(error.value)


def test_what_cannot_be_stored_is_left_out_by_name(tmp_path):
    lines = []
    counts = prepare.prepare(PAIRS, options(tmp_path, Tower(faults={7, 20})), lines.append)
    assert counts.skipped == 2
    assert lines[0] == (
        "left out digit_pairs train, row 7: the tower fell over (1 of at most 100 examples)"
    )
    stored = sources.build(back(tmp_path, "arrayrecord"))
    kept = [row for row in range(ROWS) if row not in (7, 20)]
    captions = sources.build(PAIRS)
    assert [e["captions"] for e in stored] == [captions[row]["captions"] for row in kept]
    images = Computed(Tower(), N, {})
    for made, fault in (
        (np.full(N, 1e5, np.float32), "a feature is 100000, which is beyond float16"),
        (np.full(N, np.nan, np.float32), "a feature is nan, which is not finite"),
        (np.zeros((1, N)), "features of shape (1, 6) were computed, not (6,)"),
    ):
        with pytest.raises(ValueError) as error:
            images.stored(made)
        assert str(error.value) == fault
