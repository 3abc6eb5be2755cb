"""Pairs of digits: captions say what is to be seen, and splits share what they may and no more."""

import functools
import pickle
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from big_vit_lite import checks, data
from big_vit_lite.config import Data, InputError, Run, Split
from big_vit_lite.data import parts, sources
from big_vit_lite.data.sources.digit_pairs import SPLITS

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = re.compile(r"(a|an) (\w+) (left of|above) (a|an) (\w+)")
TEXT = "lower|tokenize('bytes')|truncate(32)|pad(32)"


def pairs(split="train", examples=400, **options):
    given = {"text": TEXT, **options}
    return sources.build(
        Split(source="digit_pairs", split=split, transform="", examples=examples, **given)
    )


@functools.cache
def digits():
    from sklearn.datasets import load_digits  # takes two seconds

    return load_digits()


def read(caption):
    """(first digit, relation, second digit) of a caption."""
    article, first, relation, other, second = WORDS.fullmatch(caption).groups()
    for word, digit in ((article, first), (other, second)):
        assert (word == "an") == (digit == "eight")
    return NUMBERS.index(first), relation, NUMBERS.index(second)


def alone(row, corner):
    """One digit of scikit-learn on an empty canvas."""
    canvas = np.zeros((16, 16))
    y, x = corner
    canvas[y : y + 8, x : x + 8] = digits().images[row] * (255 / 16)
    return canvas


def middle(ink):
    return np.array([(ink * place).sum() / ink.sum() for place in np.indices(ink.shape)])


def test_captions_say_what_the_pictures_show():
    source = pairs("val", 600)
    seen = set()
    for i in range(600):
        example, pair = source[i], source.pair(i)
        (caption,) = example["captions"]
        first, relation, second = read(caption)
        assert [digits().target[row] for row in pair.rows] == [first, second]
        inks = [alone(*digit) for digit in zip(pair.rows, pair.corners, strict=True)]
        wanted = np.round(np.maximum(*inks))
        assert example["image"].shape == (16, 16, 1) and example["image"].dtype == np.uint8
        assert np.array_equal(example["image"][..., 0], wanted)
        below, right = middle(inks[1]) - middle(inks[0])
        along, across = (right, below) if relation == "left of" else (below, right)
        assert along > 3.5 and along > abs(across) + 1  # it could not be called the other relation
        seen.add((relation, pair.corners))
    # Places vary along the relation and across it, independently of each other.
    assert len({corners for relation, corners in seen if relation == "above"}) > 30


def test_labels_number_the_captions_in_a_stated_order():
    names = pairs().class_names
    assert len(names) == 200
    assert [names[37], names[88], names[119], names[180]] == [
        "a three left of a seven",
        "an eight left of an eight",
        "a one above a nine",
        "an eight above a zero",
    ]
    for split in SPLITS:
        source = pairs(split, 320)
        examples = [source[i] for i in range(320)]
        assert [e["label"] for e in examples] == source.labels().tolist()
        assert [(source.class_names[e["label"]],) for e in examples] == [
            e["captions"] for e in examples
        ]
        tuning = split.startswith("tune")
        assert source.class_names == (pairs("tune").class_names if tuning else names)


def test_splits_share_neither_digits_nor_captions_that_are_held_out():
    rows = {split: set() for split in SPLITS}
    captions = {split: Counter() for split in SPLITS}
    for split in SPLITS:
        source = pairs(split, 1200)
        for i in range(1200):
            pair = source.pair(i)
            rows[split] |= set(pair.rows)
            captions[split][pair.caption] += 1
    held = set(parts.select("held_out(20%, seed=0)", 1797, lambda: digits().target).tolist())
    assert rows["val"] | rows["unseen"] == held  # every one of them occurs
    for split in ("train", "tune_train", "tune", "tune_unseen"):
        assert not rows[split] & held
    assert not rows["tune_train"] & (rows["tune"] | rows["tune_unseen"])

    numbers = {split: set(counts) for split, counts in captions.items()}
    sizes = {split: len(found) for split, found in numbers.items()}
    assert sizes == {
        "train": 160, "val": 200, "unseen": 40, "tune_train": 120, "tune": 160, "tune_unseen": 40
    }  # fmt: skip
    assert numbers["unseen"] == numbers["val"] - numbers["train"]
    assert numbers["tune"] == numbers["train"]
    assert numbers["tune_unseen"] == numbers["tune"] - numbers["tune_train"]
    assert set(pairs("tune").class_names) == {pairs().class_names[n] for n in numbers["train"]}


@pytest.mark.parametrize("split", SPLITS)
def test_captions_and_digits_at_each_place_are_equally_frequent(split):
    captions = len(set(pairs(split).labels().tolist()))
    source = pairs(split, 2 * captions)
    counts, places = Counter(), Counter()
    for i in range(len(source)):
        (caption,) = source[i]["captions"]
        first, relation, second = read(caption)
        counts[caption] += 1
        places.update([(relation, "first", first), (relation, "second", second)])
    assert set(counts.values()) == {2} and len(counts) == captions
    assert set(places.values()) == {2 * captions // 20} and len(places) == 40


def test_rows_are_a_function_of_their_number_and_split():
    source, longer = pairs("train", 400), pairs("train", 4000)
    for i in (0, 1, 399):
        assert np.array_equal(source[i]["image"], longer[i]["image"])
    drawn = {source.pair(i)[1:] for i in range(0, 400, 160)}
    assert len(drawn) == 3  # one caption, other digits and places each time
    assert pairs("val").pair(0)[1:] != pairs("tune").pair(0)[1:]
    expected, order = [source[i]["image"] for i in range(40)], 5 * [*range(40)]
    for reader in (source, pickle.loads(pickle.dumps(source))):
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda i, reader=reader: reader[i]["image"], order))
        assert np.array_equal(made, [expected[i] for i in order])
    with pytest.raises(IndexError):
        source[400]
    assert source.name_of(3) == "digit_pairs train, row 3"


def test_batches_hold_images_texts_and_labels():
    split = Split(source="digit_pairs", transform="decode(channels=1)", examples=320, text=TEXT)
    options = {"sampler": "balanced"}
    stream = data.train_stream(Data(batch_size=160, train=split.model_copy(update=options)), 0)
    for i in range(3):
        batch = stream.host_batch(i)
        assert len(set(batch["label"].tolist())) == 160  # each caption once
        for tokens, label in zip(batch["text"], batch["label"], strict=True):
            caption = stream.class_names[label].encode()
            assert tokens.tolist() == [257, *caption, 258] + [256] * (30 - len(caption))
    held = data.eval_stream(split.model_copy(update={"split": "val", "text": ""}), 64)
    assert set(held.host_batch(0)) == {"image", "label", "mask", "index"}


def test_refusals():
    for split, hint in (("tune_unsen", " (did you mean 'tune_unseen'?)"), ("test", "")):
        with pytest.raises(InputError) as error:
            pairs(split)
        assert str(error.value) == (
            f"data.train.split: source digit_pairs has no split {split!r}{hint}; there are train, "
            "val, unseen, tune_train, tune, tune_unseen"
        )
    with pytest.raises(InputError, match="source digit_pairs names its classes itself"):
        pairs(class_names="names.txt")
    train = {"source": "digit_pairs", "transform": "", "path": "nowhere"}
    run = Run(steps=1, model={"variant": "mu/5"}, data={"batch_size": 1, "train": train})
    (fault,) = checks.images(run)
    assert "images of 16x16 do not divide into patches of 5x5" in fault.wanted
    assert list(checks.paths(run)) == []
