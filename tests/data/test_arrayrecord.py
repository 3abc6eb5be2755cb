"""ArrayRecord shards: what a record may be, labels without images, shards that are not whole."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from big_vit_lite.config import InputError, Split
from big_vit_lite.data import records, sources
from big_vit_lite.data.sources import record_shards
from big_vit_lite.data.sources.base import BadExample

NAMES = ["ant", "bee", "cow"]


def image(i):
    return b"image %d" % i


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for row in rows:
        writer.write(row)
    writer.close()


def msgpack_row(i):
    captions = [f"caption {i}", f"also {i}"]
    return records.encode({"image": image(i), "label": i % 3, "caption": captions})


def example_row(i, label=None):
    """A serialised tf.train.Example, field by field as the protobuf wire format says."""

    def field(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def varint(n):
        return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])

    def entry(name, feature):
        return field(1, field(1, name.encode()) + field(2, feature))

    label = field(3, field(1, varint(i % 3))) if label is None else field(1, field(1, label))
    texts = field(1, field(1, b"caption %d" % i) + field(1, b"also %d" % i))
    return field(
        1,
        entry("image/encoded", field(1, field(1, image(i))))
        + entry("image/class/label", label)
        + entry("texts", texts)
        + entry("ratio", field(2, field(1, np.float32(0.5).tobytes()))),
    )


def schema(folder, **fields):
    (folder / "schema.json").write_text(json.dumps(fields))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Two train shards of 6 and 5 msgpack records, one test shard of 2."""
    folder = tmp_path / "set"
    write(folder / "train-00000-of-00002.arrayrecord", map(msgpack_row, range(6)))
    write(folder / "train-00001-of-00002.arrayrecord", map(msgpack_row, range(6, 11)))
    write(folder / "test-00000-of-00001.arrayrecord", map(msgpack_row, range(2)))
    schema(folder, encoding="msgpack", class_names=NAMES, records={"train": 11, "test": 2})
    return folder


def build(folder, split="train", **options):
    options = {"transform": "", "source": "arrayrecord", **options}
    return sources.build(Split(path=str(folder), split=split, **options))


def test_records_come_in_the_order_of_the_shards_with_labels_and_names(folder):
    source = build(folder)
    assert len(source) == 11
    assert source.class_names == tuple(NAMES)
    assert [source[i] for i in range(11)] == [
        {"image": image(i), "label": i % 3} for i in range(11)
    ]
    assert source.labels().tolist() == [i % 3 for i in range(11)]
    assert source.name_of(7) == f"{folder}/train-00001-of-00002.arrayrecord, record 1"
    assert len(build(folder, "test")) == 2
    with pytest.raises(IndexError):
        source[11]


def test_captions_are_read_where_there_is_text(folder):
    source = build(folder, text="lower")
    assert source[4] == {"image": image(4), "captions": ("caption 4", "also 4")}
    assert source.class_names == ()
    both = build(folder, text="lower", label_key="label")
    assert both[4]["label"] == 1


def test_many_threads_and_a_copy_read_the_same_with_few_shards_open(folder, monkeypatch):
    monkeypatch.setattr(record_shards, "OPEN_SHARDS", 1)
    source = build(folder)
    rows = np.random.default_rng(0).integers(0, 11, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source[i]["image"], rows))
    assert found == [image(i) for i in rows]
    assert len(source._shards._readers) == 1
    assert pickle.loads(pickle.dumps(source))[9] == source[9]


@pytest.mark.parametrize("ending", ["arrayrecord", "array_record"])
def test_tf_examples_are_parsed_by_the_fields_that_the_schema_names(tmp_path, ending):
    folder = tmp_path / "set"
    write(folder / f"train-00000-of-00001.{ending}", map(example_row, range(5)))
    schema(
        folder,
        encoding="example",
        image="image/encoded",
        label="image/class/label",
        caption="texts",
        class_names=NAMES,
    )
    source = build(folder)
    assert source[4] == {"image": image(4), "label": 1}
    captions = build(folder, None, text="lower", label_key="image/class/label")
    assert captions[3] == {"image": image(3), "label": 0, "captions": ("caption 3", "also 3")}


def test_the_test_writes_examples_as_tensorflow_datasets_does():
    """The wire format above is that of the real thing: tensorflow_datasets' own serialiser."""
    tfds = pytest.importorskip("tensorflow_datasets")
    info = {
        "image/encoded": tfds.features.TensorInfo((), np.object_),
        "image/class/label": tfds.features.TensorInfo((), np.int64),
        "ratio": tfds.features.TensorInfo((), np.float32),
    }
    from tensorflow_datasets.core import example_serializer

    data = {"image/encoded": image(4), "image/class/label": 1, "ratio": 0.5}
    try:
        theirs = example_serializer.ExampleSerializer(info).serialize_example(data)
    except ImportError as error:
        pytest.skip(f"tensorflow_datasets cannot serialise here: {error}")
    ours = records.decode(example_row(4), "example")
    assert records.decode(theirs, "example") == {k: v for k, v in ours.items() if k != "texts"}


def test_config_keys_come_before_those_of_the_schema(tmp_path):
    folder = tmp_path / "set"
    write(folder / "train.arrayrecord", (example_row(i, b"cow") for i in range(3)))
    schema(folder, encoding="example", image="nowhere", label="nor here")
    source = build(folder, image_key="image/encoded", label_key="image/class/label")
    assert source[2] == {"image": image(2), "label": 0}
    assert source.class_names == ("cow",)
    with pytest.raises(InputError) as error:
        build(folder, image_key="image/encodd", label_key="image/class/label")
    assert str(error.value) == (
        f"data.train.image_key: {folder}/train.arrayrecord has no field 'image/encodd' (did you "
        "mean 'image/encoded'?); the fields of its records are: image/class/label, image/encoded, "
        "ratio, texts"
    )


def test_bare_images_take_their_labels_from_the_table(tmp_path):
    folder = tmp_path / "set"
    name = "train-00000-of-00001.arrayrecord"
    write(folder / name, map(image, range(4)))
    schema(folder, encoding="image", class_names=NAMES)
    with pytest.raises(InputError, match=r"bare images hold no labels, and .*labels\.npz is not"):
        build(folder)
    np.savez(folder / "labels.npz", **{name: np.array([2, 0, 1, 7])})
    source = build(folder)
    assert source[0] == {"image": image(0), "label": 2}
    with pytest.raises(BadExample, match="record 3: label 7 is not one of the 3 classes"):
        source[3]
    np.savez(folder / "labels.npz", **{name: np.array([2, 0])})
    with pytest.raises(InputError, match=r"has 2 labels for the 4 records of train-00000"):
        build(folder)


def test_labels_are_read_from_records_once_and_then_from_the_cache(folder, cache, monkeypatch):
    source = build(folder)
    read = []
    decode = records.decode
    monkeypatch.setattr(records, "decode", lambda *args: read.append(1) or decode(*args))
    assert source.labels().tolist() == [i % 3 for i in range(11)]
    assert len(read) == 11
    assert len(list((cache / "big_vit_lite" / "labels").iterdir())) == 1
    assert source.labels().tolist() == [i % 3 for i in range(11)]
    assert len(read) == 11
    shard = folder / "train-00001-of-00002.arrayrecord"
    write(shard, (records.encode({"image": b"x", "label": 2}) for _ in range(5)))
    assert build(folder).labels().tolist() == [0, 1, 2, 0, 1, 2, 2, 2, 2, 2, 2]


def test_a_table_of_labels_spares_the_records(folder, monkeypatch):
    names = [f"train-0000{i}-of-00002.arrayrecord" for i in range(2)]
    tables = [np.arange(6) % 3, np.arange(6, 11) % 3]
    np.savez(folder / "labels.npz", **dict(zip(names, tables, strict=True)))
    source = build(folder)
    monkeypatch.setattr(records, "decode", None)
    assert source.labels().tolist() == [i % 3 for i in range(11)]


def test_without_class_names_numbers_name_themselves(folder):
    schema(folder, encoding="msgpack")
    assert build(folder).class_names == ("0", "1", "2")
    names = folder / "names.txt"
    names.write_text("x\ny\nz\n")
    assert build(folder, class_names=str(names)).class_names == ("x", "y", "z")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: f["second"].unlink(), "1 of 2 shards are missing, the first is train-00001-of"),
        (lambda f: f["schema"].unlink(), "has no schema.json, which says what a record is; write"),
        (lambda f: f["schema"].write_text("{"), "schema.json cannot be read (Expecting property"),
        (lambda f: f["schema"].write_text("{}"), "schema.json: encoding: Field required"),
        (
            lambda f: f["schema"].write_text('{"encoding": "msgpack", "records": {"train": 12}}'),
            "the shards of 'train' in {folder} hold 11 records and schema.json says 12; copy the",
        ),
        (
            lambda f: f["second"].write_bytes(f["second"].read_bytes()[:-1]),
            "train-00001-of-00002.arrayrecord cannot be read as ArrayRecord (it is no",
        ),
        (
            lambda f: f["second"].write_bytes(b"no such file"),
            "train-00001-of-00002.arrayrecord cannot be read as ArrayRecord (it is no",
        ),
        (
            lambda f: f["second"].write_bytes(b"text" * 50_000),
            "train-00001-of-00002.arrayrecord cannot be read as ArrayRecord (it is no ArrayRecord",
        ),
        (
            lambda f: f["folder"].joinpath("dataset_info.json").write_text("{}"),
            "{folder} was prepared by TensorFlow Datasets; set source to tfds",
        ),
        (
            lambda f: f["folder"].joinpath("checksums.json").write_text("[]"),
            "checksums.json does not hold checksums of shards; copy it again",
        ),
    ],
)
def test_data_that_is_not_whole_is_refused_in_one_sentence(folder, spoil, text):
    spoil(
        {
            "folder": folder,
            "schema": folder / "schema.json",
            "second": folder / "train-00001-of-00002.arrayrecord",
        }
    )
    with pytest.raises(InputError) as error:
        build(folder)
    assert text.format(folder=folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shard_that_is_not_the_one_of_the_checksums_is_refused(folder):
    name = "train-00001-of-00002.arrayrecord"
    size = (folder / name).stat().st_size
    entry = {"sha256": "", "bytes": size, "records": 5}
    (folder / "checksums.json").write_text(json.dumps({"files": {name: entry}}))
    build(folder)
    write(folder / name, map(msgpack_row, range(4)))
    with pytest.raises(InputError, match=rf"{name} has 4 records and checksums.json says 5; copy"):
        build(folder)


def test_a_flipped_bit_spoils_one_record_and_no_other(folder):
    shard = folder / "train-00000-of-00002.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[data.find(image(3)) + 2] ^= 1
    shard.write_bytes(data)
    source = build(folder)
    with pytest.raises(BadExample) as error:
        source[3]
    assert str(error.value).startswith(f"{shard}, record 3: cannot be read (Corrupted Riegeli")
    assert str(error.value).endswith("copy the shard again")
    assert source[4]["image"] == image(4)
    assert source.labels().tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]


def test_a_shard_cut_short_while_it_is_read_gives_no_silent_nothing(folder):
    source = build(folder)
    source[8]
    with open(folder / "train-00001-of-00002.arrayrecord", "r+b") as shard:
        shard.truncate(100)
    with pytest.raises(BadExample, match=r"record 4: cannot be read \(.*\); copy the shard again"):
        source[10]


@pytest.mark.parametrize(
    ("row", "options", "text"),
    [
        (b"\xc1", {}, "cannot be read (the record is no msgpack"),
        (records.encode([1]), {}, "cannot be read (the record holds list, not a map of fields)"),
        (records.encode({"image": b"", "label": 0}), {}, "field 'image' holds no image bytes"),
        (records.encode({"image": b"x"}), {}, "label None is not one of the 3 classes"),
        (records.encode({"image": b"x", "label": 3}), {}, "label 3 is not one of the 3 classes"),
        (records.encode({"image": b"x"}), {"text": "lower"}, "field 'caption' holds no caption"),
    ],
)
def test_a_bad_record_is_a_bad_example(folder, row, options, text):
    shard = folder / "train-00000-of-00002.arrayrecord"
    write(shard, [msgpack_row(0), row, *map(msgpack_row, range(2, 6))])
    source = build(folder, **options)
    with pytest.raises(BadExample) as error:
        source[1]
    assert f"{shard}, record 1: {text}" in str(error.value)
    assert source[2]["image"] == image(2)


def test_urls_are_refused_with_what_to_do():
    with pytest.raises(InputError) as error:
        build("memory://bucket/set")
    assert str(error.value) == (
        "data.train.path: ArrayRecord shards are read from disks only; copy memory://bucket/set to "
        "one, or mount it (gcsfuse, mount-s3) and give the folder"
    )


def test_reading_imports_no_tensorflow(folder):
    code = (
        "import sys; from big_vit_lite.config import Split; from big_vit_lite.data import sources;"
        f"s = sources.build(Split(source='arrayrecord', path={str(folder)!r}, split='train', "
        "transform='')); s[0]; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
