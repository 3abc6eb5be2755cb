"""Captions in batches, from every format that has them: with labels or without, mixed, drawn."""

import io
import json
import tarfile
from collections import Counter

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from big_vit_lite import data
from big_vit_lite.config import Data, InputError, Split
from big_vit_lite.data import records, sources, transforms
from big_vit_lite.data import text as texts
from big_vit_lite.data.examples import Draws, Examples

ROWS = 12
CLASSES = ("ant", "bee", "cow")
TEXT = "lower|tokenize('bytes')|truncate(24)|pad(24)"


def image(i):
    return cv2.imencode(".png", np.full((4, 4, 3), 10 * i, np.uint8))[1].tobytes()


def captions(i):
    """One to three captions."""
    return [f"Image {i}", f"No. {i}", f"{i} it is"][: 1 + i % 3]


def tar(folder):
    with tarfile.open(folder / "train-00000.tar", "w") as archive:
        for i in range(ROWS):
            about = json.dumps({"captions": captions(i)}).encode()
            for ending, content in (
                ("png", image(i)), ("cls", CLASSES[i % 3].encode()), ("json", about)
            ):  # fmt: skip
                member = tarfile.TarInfo(f"{i:03d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return {"source": "tar", "caption_key": "json.captions", "label_key": "cls"}


def parquet(folder):
    table = pa.table(
        {
            "image": [{"bytes": image(i), "path": ""} for i in range(ROWS)],
            "kind": [CLASSES[i % 3] for i in range(ROWS)],
            "caption": [captions(i) for i in range(ROWS)],
        }
    )
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=5)
    return {"source": "parquet", "label_key": "kind"}


def table(folder):
    lines = []
    for i in range(ROWS):
        (folder / f"{i}.png").write_bytes(image(i))
        about = {"path": f"{i}.png", "kind": CLASSES[i % 3]}
        lines += [json.dumps(about | {"caption": caption}) for caption in captions(i)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    return {"source": "table", "label_key": "kind"}


def arrayrecord(folder):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(folder / "train-00000-of-00001.arrayrecord"), "group_size:1")
    for i in range(ROWS):
        fields = {"image": image(i), "label": CLASSES[i % 3], "caption": captions(i)}
        writer.write(records.encode(fields))
    writer.close()
    (folder / "schema.json").write_text('{"encoding": "msgpack"}')
    return {"source": "arrayrecord", "label_key": "label"}


MAKERS = (tar, parquet, table, arrayrecord)


def split(folder, make, **options):
    folder.mkdir(exist_ok=True)
    given = {"path": str(folder), "split": "train", "transform": "decode", "text": TEXT}
    return Split(**(given | make(folder) | options))


def seen_in(stream, i):
    """[(image number, caption, label or None)] of batch `i`."""
    batch = stream.host_batch(i)
    told = stream.captions(i, batch["text"])
    labels = batch.get("label", [None] * len(told))
    return list(zip((batch["image"][:, 0, 0, 0] // 10).tolist(), told, labels, strict=True))


def seen(stream, batches):
    """The same of the first batches, one after the other."""
    return [row for i in range(batches) for row in seen_in(stream, i)]


def lowered(i):
    return [caption.lower() for caption in captions(i)]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_each_format_gives_text_with_labels_and_without(tmp_path, make):
    with_labels = split(tmp_path, make)
    stream = data.train_stream(Data(batch_size=4, train=with_labels), 0)
    assert stream.class_names == CLASSES
    assert stream.spec["text"].shape == (4, 24) and stream.spec["text"].dtype == np.int32
    found = seen(stream, 3)
    assert sorted(i for i, _, _ in found) == [*range(ROWS)]
    assert all(caption in lowered(i) and label == i % 3 for i, caption, label in found)
    tokens = stream.host_batch(0)["text"][0].tolist()
    caption = found[0][1].encode()
    assert tokens == [257, *caption, 258] + [256] * (22 - len(caption))

    alone = with_labels.model_copy(update={"label_key": None})
    stream = data.train_stream(Data(batch_size=4, train=alone), 0)
    assert set(stream.spec) == {"image", "text"} and stream.class_names == ()
    assert [row[:2] for row in seen(stream, 3)] == [row[:2] for row in found]

    held = data.eval_stream(with_labels.model_copy(update={"captions": "first"}), 8)
    rows = [row for row in seen(held, 2) if row[1]]
    assert rows == [(i, lowered(i)[0], i % 3) for i in range(ROWS)]


def test_captions_in_turn_and_the_first(tmp_path):
    for choice, wanted in (
        ("first", lambda i, epoch: 0),
        ("each", lambda i, epoch: epoch % (1 + i % 3)),
    ):
        train = split(tmp_path, table, captions=choice)
        stream = data.train_stream(Data(batch_size=ROWS, train=train), 0)
        for epoch in range(4):
            told = {i: caption for i, caption, _ in seen_in(stream, epoch)}
            assert told == {i: lowered(i)[wanted(i, epoch)] for i in range(ROWS)}


def drawn_by(visits, seed=0, **options):
    """Captions of each image over many visits."""
    train = split(**options)
    source, text = sources.build(train), texts.parse(train.text)
    made = Examples(source, transforms.parse("decode"), seed, text=text, captions=train.captions)
    draws = Draws(seed)
    return {
        i: [text.caption(made.example(i, visit, draws)["text"]) for visit in range(visits)]
        for i in range(ROWS)
    }


def test_captions_are_drawn_for_each_image_visit_and_seed(tmp_path):
    options = {"folder": tmp_path, "make": table, "captions": "random"}
    drawn, again = drawn_by(300, **options), drawn_by(300, seed=1, **options)
    for i in (2, 5, 8):
        counts = Counter(drawn[i])
        assert set(counts) == set(lowered(i)) and min(counts.values()) > 70
        assert drawn[i] != again[i]
    turns = {i: [lowered(i).index(caption) for caption in drawn[i]] for i in (2, 5, 8)}
    assert turns[2] != turns[5] != turns[8] != turns[2]
    assert drawn_by(300, **options) == drawn


def test_templates_are_drawn_for_each_image_and_visit(tmp_path):
    text = "template('{}', 'see: {}')|lower|tokenize('bytes')|truncate(24)|pad(24)"
    options = {"folder": tmp_path, "make": table, "captions": "first", "text": text}
    drawn = drawn_by(200, **options)
    for i, told in drawn.items():
        assert Counter(told).keys() == {f"image {i}", f"see: image {i}"}
        assert 65 < told.count(f"image {i}") < 135
    assert len({tuple(len(caption) > 9 for caption in told) for told in drawn.values()}) == ROWS


def test_a_mixture_keeps_the_shares_and_texts_of_its_captioned_sources(tmp_path):
    first = split(tmp_path / "tar", tar, label_key=None, weight=3.0)
    other = split(tmp_path / "table", table, label_key=None, text=f"template('seen: {{}}')|{TEXT}")
    drawn = Data(batch_size=16, train=first, mix={"more": other})
    stream = data.train_stream(drawn, 0)
    found = seen(stream, 6)
    of_other = [caption.startswith("seen: ") for _, caption, _ in found]
    assert sum(of_other) == 24 and sum(of_other[:16]) == 4  # a quarter, in every batch
    assert all(c.removeprefix("seen: ") in lowered(i) for i, c, _ in found)
    # Tokens of each member are read back by its own tokenizer's settings.
    bare = "lower|tokenize('bytes', start=False)|truncate(24)|pad(24)"
    mixed = drawn.model_copy(update={"mix": {"more": other.model_copy(update={"text": bare})}})
    stream = data.train_stream(mixed, 0)
    assert {start == 257 for start in stream.host_batch(0)["text"][:, 0]} == {True, False}
    assert all(caption in lowered(i) for i, caption, _ in seen(stream, 6))

    shorter = other.model_copy(update={"text": "tokenize('bytes')|truncate(9)|pad(9)"})
    with pytest.raises(InputError) as error:
        data.train_stream(drawn.model_copy(update={"mix": {"more": shorter}}), 0)
    assert "data.mix.more makes examples of" in str(error.value)
    assert "text (9,)" in str(error.value) and "text (24,)" in str(error.value)


def test_a_sampler_by_class_wants_labels(tmp_path):
    balanced = split(tmp_path, parquet, sampler="balanced")
    batch = data.train_stream(Data(batch_size=6, train=balanced), 0).host_batch(0)
    assert Counter(batch["label"].tolist()) == {0: 2, 1: 2, 2: 2}
    with pytest.raises(InputError) as error:
        alone = balanced.model_copy(update={"label_key": None})
        data.train_stream(Data(batch_size=6, train=alone), 0)
    assert str(error.value) == (
        'data.train.sampler "balanced" goes by classes, and beside text no labels are read; name '
        "them with data.train.label_key, or take sampler shuffle"
    )
