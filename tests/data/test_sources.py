"""Sources: what they read, under which names and labels, and what they say where they cannot."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from big_vit_lite.config import InputError, RunError, Split
from big_vit_lite.data import sources, transforms
from big_vit_lite.data.sources import digits, parquet
from big_vit_lite.data.sources.base import BadExample
from big_vit_lite.data.sources.folder import EXTENSIONS

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def build(source, where="data.train", **options):
    return sources.build(Split(source=source, transform="", **options), where)


def encoded(value=0, extension=".png", size=(6, 5)):
    image = np.full((*size, 3), value, np.uint8)
    return cv2.imencode(extension, image)[1].tobytes()


def write_shard(path, values, labels, metadata=None, image=True, row_group=4, label_type=None):
    images = pa.array(
        [{"bytes": encoded(v), "path": f"{v}.png"} for v in values]
        if image
        else [encoded(v) for v in values]
    )
    table = pa.table({"image": images, "label": pa.array(labels, label_type)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=row_group)


def hub_metadata(names):
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


@pytest.fixture
def shards(tmp_path):
    """Two train shards of 10 and 7 rows, image value = row, label = row % 3; one test shard."""
    metadata = hub_metadata(["ant", "bee", "cow"])
    for name, rows in (
        ("train-00000-of-00002", range(10)),
        ("train-00001-of-00002", range(10, 17)),
        ("test-00000-of-00001", range(5)),
    ):
        labels = [row % 3 for row in rows]
        write_shard(tmp_path / "data" / f"{name}.parquet", list(rows), labels, metadata)
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """train/{ant,bee} with two and one images in two formats, and what is to be skipped."""
    for name in ("bee/2.JPEG", "ant/b.png", "ant/deep/a.webp", "ant/.hidden.png", ".git/x.png"):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        extension = file.suffix.lower()
        file.write_bytes(encoded(7, extension if extension != ".jpeg" else ".jpg"))
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    return tmp_path


def test_digits_are_scikit_learns_spread_over_all_grey_levels():
    from sklearn.datasets import load_digits

    source, theirs = build("digits"), load_digits()
    assert len(source) == 1797
    assert source.class_names == tuple("0123456789")
    images = np.stack([source[i]["image"] for i in range(1797)])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert np.array_equal(images[..., 0], np.round(theirs.images * 255 / 16))
    assert [source[i]["label"] for i in range(1797)] == theirs.target.tolist()
    assert np.array_equal(source.labels(), theirs.target)


def test_digits_are_read_without_importing_scikit_learn(monkeypatch):
    code = "import sys; from big_vit_lite.data import sources; "
    code += "from big_vit_lite.config import Split; "
    code += "split = Split(source='digits', transform='decode'); "
    code += "print(len(sources.build(split)), 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1797", "False"]
    # Where its file is not there it is asked itself.
    rows = digits._rows()
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(digits._rows(), rows)


def test_synthetic_is_a_function_of_row_and_split_and_can_be_learned():
    options = {"examples": 300, "classes": 4, "image_size": (12, 20), "channels": 2}
    train, again = build("synthetic", **options), build("synthetic", **options)
    test = build("synthetic", split="test", **options)
    assert len(train) == 300
    assert train[7]["image"].shape == (12, 20, 2)
    assert np.array_equal(train[7]["image"], again[7]["image"])
    assert not np.array_equal(train[7]["image"], train[11]["image"])
    assert not np.array_equal(train[7]["image"], test[7]["image"])
    assert train.labels().tolist() == [train[i]["label"] for i in range(300)]

    def features(source):
        return np.stack([source[i]["image"].ravel() for i in range(300)]).astype(float)

    labels = train.labels()
    means = np.stack([features(train)[labels == c].mean(0) for c in range(4)])
    nearest = ((features(test)[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.99


def test_folder_numbers_sorted_classes_and_files(folder):
    source = build("folder", path=str(folder), split="train")
    assert source.class_names == ("ant", "bee")
    names = [Path(source.name_of(i)).relative_to(folder / "train").as_posix() for i in range(3)]
    assert names == ["ant/b.png", "ant/deep/a.webp", "bee/2.JPEG"]
    assert len(source) == 3
    assert source.labels().tolist() == [source[i]["label"] for i in range(3)] == [0, 0, 1]
    decode = transforms.parse("decode")
    assert all(abs(int(decode(source[i]["image"], None).mean()) - 7) <= 2 for i in range(3))
    assert [e["label"] for e in build("folder", path=str(folder / "train"))] == [0, 0, 1]


def test_an_empty_class_folder_keeps_its_number(folder):
    (folder / "train" / "aardvark").mkdir()
    source = build("folder", path=str(folder), split="train")
    assert source.class_names == ("aardvark", "ant", "bee")
    assert source.labels().tolist() == [1, 1, 2]


def test_folder_refusals(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path, split, text in (
        (tmp_path / "none", None, f"data.val.path: {tmp_path / 'none'} does not exist"),
        (folder, "val", f"data.val.split: {folder} has no folder 'val'; its folders are: bare, tr"),
        (bare, None, f"data.val.path: {bare} is empty; it needs one folder of images per class"),
        (folder / "train" / "bee", None, "holds 1 images but no class folders; put the images"),
        (folder / "train" / "ant" / "b.png", None, "is not a folder"),
    ):
        with pytest.raises(InputError, match="^data.val") as error:
            build("folder", "data.val", path=str(path), split=split)
        assert text in str(error.value)
    (bare / "ant").mkdir()
    with pytest.raises(InputError, match="hold no images"):
        build("folder", path=str(bare))


def test_splits_are_not_taken_for_classes(folder):
    with pytest.raises(InputError) as error:
        build("folder", path=str(folder))
    assert str(error.value) == (
        f"data.train.split is not set: {folder} holds the splits train; name one, "
        "for example --config.data.train.split=train"
    )
    (folder / "bee" / "deep").mkdir(parents=True)  # now train is a class like any other
    assert build("folder", path=str(folder)).class_names == ("bee", "train")


def test_photographs_that_no_decoder_reads_are_not_left_out_in_silence(folder):
    (folder / "train" / "ant" / "IMG_1.HEIC").write_bytes(b"ftypheic")
    (folder / "train" / "ant" / "notes.txt").write_text("not a photograph")
    with pytest.raises(InputError) as error:
        build("folder", path=str(folder), split="train")
    assert str(error.value) == (
        f"data.train.path: {folder}/train holds 1 photographs of a kind that cannot be read, the "
        "first is ant/IMG_1.HEIC; convert them to JPEG or move them elsewhere"
    )


def test_every_kind_that_is_decoded_is_found(tmp_path):
    kinds = Pillow.registered_extensions()
    (tmp_path / "bee").mkdir()
    for i, extension in enumerate(EXTENSIONS):
        file = tmp_path / "bee" / f"{i:02}{extension}"
        Pillow.new("RGB", (9, 7), (9 * i,) * 3).save(file, kinds[extension])
    source = build("folder", path=str(tmp_path))
    images = [transforms.parse("decode")(example["image"], None) for example in source]
    assert len(images) == len(EXTENSIONS)
    assert all(abs(int(image.mean()) - 9 * i) <= 2 for i, image in enumerate(images))


def test_a_file_that_vanished_is_one_bad_example(folder):
    source = build("folder", path=str(folder), split="train")
    (folder / "train" / "bee" / "2.JPEG").unlink()
    with pytest.raises(BadExample, match=r"bee/2.JPEG: cannot be read \(No such file"):
        source[2]
    assert source[1]["label"] == 0


def test_folders_are_numbered_by_given_names(folder):
    """A validation folder that lacks a class, as any on an object store may."""
    names = folder / "names.txt"
    names.write_text("\ufeffcow\nbee\nant\n\n")
    options = {"path": str(folder), "split": "train", "class_names": str(names)}
    source = build("folder", **options)
    assert source.class_names == ("cow", "bee", "ant")
    assert source.labels().tolist() == [e["label"] for e in source] == [2, 2, 1]
    for text, refusal in (
        ("ant\nbees\n", " does not name the class folder {0}/bee (did you mean 'bees'?)"),
        ("", ": {1} is empty; it needs one class name a line"),
        ("ant\n\nbee\n", ": {1}, line 2 is empty; it needs the name of a class"),
        ("ant\nbee\nant\n", ": {1} names 'ant' twice, in lines 1 and 3"),
    ):
        names.write_text(text)
        with pytest.raises(InputError) as error:
            build("folder", **options)
        expected = "data.train.class_names" + refusal.format(folder / "train", names)
        assert str(error.value) == expected
    names.unlink()
    with pytest.raises(InputError, match=r"class_names: .*names.txt cannot be read \(No such"):
        build("folder", **options)


@pytest.mark.parametrize("source", ["digits", "synthetic", "folder"])
def test_sources_without_captions_say_so(source, folder):
    with pytest.raises(InputError) as error:
        build(source, path=str(folder), text="lower")
    assert str(error.value).startswith(f"data.train.text is set, but source {source} has no")
    if source != "folder":
        with pytest.raises(InputError, match=f"source {source} names its classes itself"):
            build(source, class_names="names.txt")


@pytest.fixture
def store():
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/sources-test", recursive=True)


def upload(store, folder):
    for file in folder.rglob("*"):
        if file.is_file():
            store.pipe(f"/sources-test/{file.relative_to(folder)}", file.read_bytes())


def test_folder_on_a_store(store, folder):
    upload(store, folder)
    local = build("folder", path=str(folder), split="train")
    source = build("folder", path="memory://sources-test", split="train")
    assert list(source) == list(local)
    assert source.class_names == local.class_names
    assert source.name_of(1) == "memory://sources-test/train/ant/deep/a.webp"
    assert list(pickle.loads(pickle.dumps(source))) == list(local)
    for path, split, text in (
        ("memory://sources-test/none", None, "memory://sources-test/none does not exist"),
        ("memory://sources-test", "val", "has no folder 'val'; its folders are: train"),
        ("memory://sources-test/train/bee", None, "holds 1 images but no class folders"),
    ):
        with pytest.raises(InputError) as error:
            build("folder", path=path, split=split)
        assert text in str(error.value)
    store.rm("/sources-test/train/ant/b.png")
    with pytest.raises(BadExample, match=r"ant/b.png: cannot be read \(No such file"):
        source[0]


def test_parquet_on_a_store(store, shards):
    upload(store, shards)
    local = build("parquet", path=str(shards), split="train")
    source = build("parquet", path="memory://sources-test", split="train")
    assert list(source) == list(local)
    assert source.class_names == local.class_names
    assert source.labels().tolist() == local.labels().tolist()
    first = "memory://sources-test/data/train-00000-of-00002.parquet"
    assert source.name_of(3) == f"{first}, row 3"
    assert list(build("parquet", path=first.replace("00000-of", "{00000..00001}-of"))) == list(
        local
    )
    store.pipe(first, b"PAR1 torn")
    with pytest.raises(RunError, match="train-00000-of-00002.parquet: has changed since the run"):
        pickle.loads(pickle.dumps(source))[0]
    with pytest.raises(InputError, match="train-00000-of-00002.parquet cannot be read as Parquet"):
        build("parquet", path="memory://sources-test", split="train")


@pytest.mark.parametrize("source", ["folder", "parquet", "table", "tar"])
def test_a_path_that_is_not_set_says_what_to_give(source):
    with pytest.raises(InputError) as error:
        build(source)
    assert str(error.value).startswith("data.train.path is not set: give ")
    assert "--config.data.train.path=" in str(error.value)


def values_of(source):
    decode = transforms.parse("decode")
    return [int(decode(source[i]["image"], None)[0, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize("inside", ["", "data"])
def test_parquet_reads_all_shards_of_a_split_in_order(shards, inside):
    source = build("parquet", path=str(shards / inside), split="train")
    assert source.class_names == ("ant", "bee", "cow")
    assert values_of(source) == list(range(17))
    assert source.labels().tolist() == [source[i]["label"] for i in range(17)]
    assert source.labels().tolist() == [row % 3 for row in range(17)]
    second = shards / "data" / "train-00001-of-00002.parquet"
    assert source.name_of(12) == f"{second}, row 2"
    assert values_of(build("parquet", path=str(second))) == list(range(10, 17))


def test_parquet_in_the_only_sub_folder(shards):
    (shards / "data").rename(shards / "plain_text")
    assert len(build("parquet", path=str(shards), split="test")) == 5


def test_parquet_labels_as_text_and_without_names(tmp_path):
    write_shard(tmp_path / "a.parquet", [1, 2, 3], ["dog", "cat", "dog"], image=False)
    source = build("parquet", path=str(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert [e["label"] for e in source] == source.labels().tolist() == [1, 0, 1]
    write_shard(tmp_path / "a.parquet", [1, 2, 3], [0, 4, 2])
    assert build("parquet", path=str(tmp_path)).class_names == ("0", "1", "2", "3", "4")


def test_parquet_captions(tmp_path):
    images, file = [encoded(i) for i in range(5)], tmp_path / "a.parquet"
    lists = [["a", "b"], ["c"], [], ["d", ""], None]
    texts = ["one", "two", "", None, "five"]
    pq.write_table(
        pa.table({"image": images, "caption": lists, "title": texts, "label": [0, 1, 0, 1, 9]}),
        file,
        row_group_size=2,
    )
    source = build("parquet", path=str(file), text="lower")
    assert [source[i]["captions"] for i in range(2)] == [("a", "b"), ("c",)]
    assert "label" not in source[0]
    assert source.class_names == ()
    assert source.labels().tolist() == 5 * [0]
    for row, text in ((2, "no caption"), (3, "an empty caption"), (4, "no caption")):
        with pytest.raises(BadExample) as error:
            source[row]
        assert str(error.value) == f"{file}, row {row}: column 'caption' holds {text}"
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    both = {"text": "lower", "caption_key": "title", "label_key": "label"}
    source = build("parquet", path=str(file), class_names=str(tmp_path / "names.txt"), **both)
    assert source[1] == {"image": images[1], "label": 1, "captions": ("two",)}
    assert source.class_names == ("ant", "bee")
    assert source.labels().tolist() == [0, 1, 0, 1, 0]
    for row, text in (
        (2, "column 'title' holds an empty caption"),
        (3, "column 'title' holds no caption"),
        (4, "label 9 is not one of the 2 classes; correct it or leave the row out with a part"),
    ):
        with pytest.raises(BadExample, match=f"a.parquet, row {row}: {text}"):
            source[row]
    with pytest.raises(InputError, match=r"caption_key: column 'label' .* holds int64; captions"):
        build("parquet", path=str(file), text="lower", caption_key="label")
    with pytest.raises(InputError, match=r"image_key: column 'label' .* holds int64; images are"):
        build("parquet", path=str(file), image_key="label")


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_four_threads_and_a_pickled_copy_read_the_same(source, folder, shards):
    source = build(source, path=str(folder if source == "folder" else shards), split="train")
    expected, order = list(source), 10 * [*range(len(source))]
    for reader in (source, pickle.loads(pickle.dumps(source))):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(reader.__getitem__, order)) == [expected[i] for i in order]


def test_parquet_survives_pickling_and_keeps_few_row_groups(shards, monkeypatch):
    source = pickle.loads(pickle.dumps(build("parquet", path=str(shards), split="train")))
    reads = []
    read = parquet.Parquet._read
    monkeypatch.setattr(
        parquet.Parquet, "_read", lambda self, group: (reads.append(group), read(self, group))[1]
    )
    assert values_of(source) == values_of(source) == list(range(17))
    assert reads == [0, 1, 2, 3, 4]  # 4 + 4 + 2 and 4 + 3 rows, each group read once
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 1)
    source = pickle.loads(pickle.dumps(source))
    assert values_of(source) == values_of(source) == list(range(17))
    assert reads == 3 * [0, 1, 2, 3, 4]  # the last group only is kept


def test_parquet_refusals(shards, tmp_path):
    def refused(**options):
        with pytest.raises(InputError) as error:
            build("parquet", **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    path = str(shards)
    assert "data.train.path: nowhere does not exist" in refused(path="nowhere")
    (shards / "empty").mkdir()
    assert "holds *.parquet; give the folder" in refused(path=str(shards / "empty"))
    assert "data.train.split is not set" in refused(path=path)
    assert "has no val-*.parquet; its splits are: test, train" in refused(path=path, split="val")
    text = refused(path=path, split="test", label_key="lable")
    assert text.startswith("data.train.label_key: ")
    assert "has no column 'lable' (did you mean 'label'?); its columns are: image, label" in text
    assert "data.train.image_key" in refused(path=path, split="test", image_key="img")
    (shards / "data" / "train-00000-of-00002.parquet").unlink()
    text = refused(path=path, split="train")
    assert "1 of 2 shards are missing, the first is train-00000-of-00002.parquet" in text
    (shards / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 torn")
    assert "test-00000-of-00001.parquet cannot be read as Parquet" in refused(
        path=path, split="test"
    )
    write_shard(tmp_path / "f" / "a.parquet", [1], [0.5])
    assert "holds double; labels are whole numbers or text" in refused(path=str(tmp_path / "f"))


def test_parquet_rows_without_image_or_label_are_named(tmp_path):
    file = tmp_path / "a.parquet"
    write_shard(file, [1, 2, 3], [0, -1, None], hub_metadata(["ant"]), label_type=pa.int64())
    source = build("parquet", path=str(file))
    assert source[0]["label"] == 0
    assert source.labels().tolist() == [0, 0, 0]
    for row, label in ((1, "-1"), (2, "None")):
        with pytest.raises(BadExample, match=f"a.parquet, row {row}: label {label} is not one of"):
            source[row]
    pq.write_table(pa.table({"image": pa.array([None], pa.binary()), "label": [0]}), file)
    with pytest.raises(BadExample, match="row 0: column 'image' holds no image bytes"):
        build("parquet", path=str(file))[0]


def test_a_shard_that_changes_or_breaks_during_the_run_ends_it_by_name(shards):
    source = build("parquet", path=str(shards), split="test")
    file = shards / "data" / "test-00000-of-00001.parquet"
    data, times = file.read_bytes(), file.stat()
    file.write_bytes(data[:200])
    with pytest.raises(RunError, match="test-00000-of-00001.parquet: has changed since") as error:
        source[0]
    assert not isinstance(error.value, BadExample)  # a whole file is no single bad example
    file.write_bytes(b"\xff" * 200 + data[200:])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(RunError, match="test-00000-of-00001.parquet: row group 0 cannot be read"):
        source[0]


def test_a_part_keeps_names_and_rows_of_the_whole(shards):
    whole = build("parquet", path=str(shards), split="train")
    source = build("parquet", path=str(shards), split="train", part="[9:]|[50%:]")
    assert [source.row_of(i) for i in range(len(source))] == [13, 14, 15, 16]
    assert values_of(source) == [13, 14, 15, 16]
    assert source.labels().tolist() == whole.labels()[13:].tolist()
    assert source.name_of(0) == whole.name_of(13) == source.whole.name_of(13)
    assert source.class_names == whole.class_names
    drawn = build("parquet", path=str(shards), split="train", part="held_out(6, seed=0)")
    assert sorted(drawn.labels().tolist()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="needs CIFAR-10 as Parquet beside the repository")
def test_cifar10():
    train = build("parquet", path=str(CIFAR10), split="train")
    assert len(train) == 50_000
    assert train.class_names[0] == "airplane"
    assert np.bincount(train.labels()).tolist() == [5000] * 10
    assert transforms.parse("decode")(train[49_999]["image"], None).shape == (32, 32, 3)
    assert len(build("parquet", path=str(CIFAR10), split="test")) == 10_000
