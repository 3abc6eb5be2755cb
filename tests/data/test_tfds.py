"""TensorFlow Datasets folders, prepared and read here without TensorFlow."""

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from pictures import photo

from big_vit_lite.config import InputError, Split
from big_vit_lite.data import sources, transforms
from big_vit_lite.data.sources.base import BadExample

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")

NAMES = ("ant", "bee", "cow")
IMAGES = [cv2.imencode(".jpg", photo(12, 16, seed=i))[1].tobytes() for i in range(9)]


class Animals(tfds.core.GeneratorBasedBuilder):
    """Nine photographs with labels and captions, as encoded bytes."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        f = tfds.features
        features = {
            "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": f.ClassLabel(names=NAMES),
            "number": np.int64,
            "caption": f.Sequence(f.Text()),
            "captions": f.Sequence({"id": np.int64, "text": f.Text()}),
            "file_name": f.Text(),
            "mask": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 6), "test": self._generate_examples(6, 9)}

    def _generate_examples(self, first, end):
        for i in range(first, end):
            texts = [f"caption {i}", f"also {i}"][: 1 + i % 2]
            yield (
                i,
                {
                    "image": IMAGES[i],
                    "label": i % 3,
                    "number": 10 + i % 3,
                    "caption": texts,
                    "captions": [{"id": k, "text": text} for k, text in enumerate(texts)],
                    "file_name": f"{i}.jpg",
                    "mask": b"never decoded",
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """DATA_DIR with animals/1.2.0 as ArrayRecord."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.display_progress_bar(False)
    Animals(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of animals/ that the test may spoil."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(prepared / "animals", tmp_path / "animals")


def build(folder, split="train", **options):
    options = {"transform": "", "source": "tfds", **options}
    return sources.build(Split(path=str(folder), split=split, **options))


def numbers(source):
    """Which of IMAGES each example holds, bit for bit."""
    return [IMAGES.index(source[i]["image"]) for i in range(len(source))]


def test_images_stay_the_bytes_they_were_with_labels_and_names(folder):
    source = build(folder / "1.2.0")
    assert source.class_names == NAMES
    order = numbers(source)
    assert sorted(order) == list(range(6))
    assert [source[i]["label"] for i in range(6)] == [n % 3 for n in order]
    assert source.labels().tolist() == [n % 3 for n in order]
    assert source.labels().tolist() == [n % 3 for n in order]  # from the cache
    assert sorted(numbers(build(folder, "test"))) == [6, 7, 8]
    assert source.name_of(2) == f"{folder}/1.2.0, train, row 2"
    pixels = transforms.parse("decode")(source[0]["image"], None)
    assert pixels.shape == (12, 16, 3)
    with pytest.raises(IndexError):
        source[6]


@pytest.mark.parametrize("key", [None, "captions/text"])
def test_captions_may_be_lists_or_lie_in_a_sequence(folder, key):
    source = build(folder, text="lower", caption_key=key)
    for i, number in enumerate(numbers(source)):
        texts = (f"caption {number}", f"also {number}")
        assert source[i]["captions"] == texts[: 1 + number % 2]
        assert "label" not in source[i]
    assert source.class_names == ()
    single = build(folder, text="lower", caption_key="file_name")
    assert single[0]["captions"] == (f"{numbers(single)[0]}.jpg",)


def test_labels_may_be_plain_numbers_or_text(folder):
    source = build(folder, label_key="number")
    order = numbers(source)
    assert source.class_names == tuple(map(str, range(13)))
    assert [source[i]["label"] for i in range(6)] == [10 + n % 3 for n in order]
    source = build(folder, label_key="file_name")
    assert source.class_names == tuple(f"{i}.jpg" for i in range(6))
    assert source.labels().tolist() == order
    names = folder / "names.txt"
    names.write_text("x\ny\nz\n")
    assert build(folder, class_names=str(names)).class_names == ("x", "y", "z")


def test_the_newest_version_and_the_only_config_are_found(folder):
    shutil.copytree(folder / "1.2.0", folder / "1.10.0")
    (folder / "1.11.0").mkdir()
    assert build(folder).name_of(0).startswith(f"{folder}/1.10.0, ")
    inner = folder.parent / "configs" / "small"
    shutil.copytree(folder, inner)
    assert build(inner.parent).name_of(0).startswith(f"{inner}/1.10.0, ")
    shutil.copytree(folder, inner.parent / "large")
    with pytest.raises(InputError, match="holds several data sets or configs: large, small; give"):
        build(inner.parent)


def test_threads_and_copies_read_the_same(folder):
    source = build(folder)
    order = numbers(source)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source[i % 6]["image"], range(600)))
    assert found == [IMAGES[order[i % 6]] for i in range(600)]
    assert numbers(pickle.loads(pickle.dumps(source))) == order


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"split": None}, "data.train.split is not set: {folder} holds test, train; name one"),
        ({"split": "val"}, "{folder} has no split 'val'; its splits are: test, train"),
        ({"split": "train[:9%]"}, "no split 'train[:9%]'; its splits are: test, train; part takes"),
        (
            {"image_key": "imag"},
            "data.train.image_key: {folder} has no feature 'imag' (did you mean 'image'?); there "
            "are: caption, captions, file_name, image, label, mask, number",
        ),
        ({"label_key": "captions/txt"}, "feature 'captions/txt' (did you mean 'text'?); there are"),
        ({"image_key": "label"}, "image_key: feature 'label' of {folder} is ClassLabel, not Image"),
        ({"path": "/nowhere"}, "/nowhere is no folder; give that of a data set prepared by Tensor"),
        ({"path": "memory://x"}, "are read from disks only; copy memory://x to one, or mount it"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(folder, options, text):
    path = options.pop("path", folder)
    with pytest.raises(InputError) as error:
        build(path, **{"split": "train", **options})
    assert text.format(folder=folder / "1.2.0") in str(error.value)
    assert "\n" not in str(error.value)


def _as_tfrecord(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))


def _with_another_shard(folder):
    shutil.copy(next(folder.glob("*test*")), next(folder.glob("*train*")))


def _truncated(folder):
    shard = next(folder.glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            _truncated,
            "array_record-00000-of-00001 cannot be read as ArrayRecord (it is no ArrayRec",
        ),
        (
            _with_another_shard,
            "00000-of-00001 has 3 records and dataset_info.json says 6; copy the",
        ),
        (
            _as_tfrecord,
            "{folder} was prepared as tfrecord, which has no random access; prepare it again by "
            "tfds.builder('animals', file_format='array_record').download_and_prepare()",
        ),
        (lambda f: next(f.glob("*train*")).unlink(), "1 of 1 shards are missing, the first is"),
        (lambda f: (f / "dataset_info.json").unlink(), "holds no dataset_info.json and no version"),
        (
            lambda f: (f / "features.json").write_text("{"),
            "{folder} cannot be read as a TensorFlow",
        ),
    ],
)
def test_data_that_is_not_whole_is_refused_in_one_sentence(folder, spoil, text):
    spoil(folder / "1.2.0")
    with pytest.raises(InputError) as error:
        build(folder / "1.2.0")
    assert text.format(folder=folder / "1.2.0") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_one_bad_example(folder):
    order = numbers(build(folder))
    shard = next((folder / "1.2.0").glob("*train*"))
    data = bytearray(shard.read_bytes())
    data[data.index(b"never decoded")] ^= 1  # in the record that stands first
    shard.write_bytes(data)
    source, bad = build(folder), 0
    for i in range(6):
        try:
            assert source[i]["image"] == IMAGES[order[i]]
        except BadExample as error:
            assert f"{folder}/1.2.0, train, row {i}: cannot be read" in str(error)
            bad += 1
    assert bad == 1


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r'which is missing: pip install "big_vit_lite\[tfds\]"'):
        build(folder)


def test_preparing_and_reading_import_no_tensorflow(folder):
    assert "tensorflow" not in sys.modules
    code = (
        "import sys; from big_vit_lite.config import Split; from big_vit_lite.data import sources;"
        f"s = sources.build(Split(source='tfds', path={str(folder)!r}, split='train', "
        "transform='')); s[0]; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
