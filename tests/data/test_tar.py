"""Tar shards: what the index knows, which examples are read, and every way a shard can be wrong."""

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from big_vit_lite.config import InputError, RunError, Split
from big_vit_lite.data import sources
from big_vit_lite.data.sources import tar_index
from big_vit_lite.data.sources.base import BadExample

SHARED = Path(__file__).parents[3] / "shared" / "data"


def build(path, where="data.train", **options):
    return sources.build(Split(source="tar", path=str(path), transform="", **options), where)


def refused(path, **options):
    with pytest.raises(InputError) as error:
        build(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def packed(members, form=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def write(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(members, form))
    return path


def image(i):
    return b"image %d" % i * (i + 1)


def numbered(rows):
    """KEY.jpg and KEY.cls for each row; label = row % 3."""
    return [
        item
        for row in rows
        for item in ((f"{row:04d}.jpg", image(row)), (f"{row:04d}.cls", b"%d\n" % (row % 3)))
    ]


@pytest.fixture
def shards(tmp_path):
    """Two train shards of 10 and 7 rows, one val shard of 5."""
    write(tmp_path / "train-00000.tar", numbered(range(10)))
    write(tmp_path / "train-00001.tar", numbered(range(10, 17)))
    write(tmp_path / "val-00000.tar", numbered(range(5)))
    return tmp_path


def test_all_shards_of_a_split_in_order(shards):
    source = build(shards, split="train")
    assert len(source) == 17
    assert [source[i]["image"] for i in range(17)] == [image(i) for i in range(17)]
    assert source.labels().tolist() == [source[i]["label"] for i in range(17)]
    assert source.labels().tolist() == [i % 3 for i in range(17)]
    assert source.class_names == ("0", "1", "2")
    assert source.name_of(12) == f"{shards / 'train-00001.tar'}, 0012"
    assert "captions" not in source[0]
    with pytest.raises(IndexError):
        source[17]


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("train-{00000..00001}.tar", [*range(17)]),
        ("train-{00001,00000}.tar", [*range(10, 17), *range(10)]),
        ("train-*.tar", [*range(17)]),
        ("train-0000?.tar", [*range(17)]),
        ("{val,train}-00000.tar", [*range(5), *range(10)]),
        ("train-00001.tar", [*range(10, 17)]),
    ],
)
def test_patterns(shards, path, rows):
    assert [e["image"] for e in build(shards / path)] == [image(i) for i in rows]


def test_a_split_by_the_beginning_of_its_files(shards):
    (shards / "val-00000.tar").rename(shards / "validation_00000.tar")
    assert len(build(shards, split="val")) == 5
    assert len(build(shards, split="validation")) == 5


def test_shards_with_numbers_only_are_one_split(shards):
    (shards / "val-00000.tar").unlink()
    for i in range(2):
        (shards / f"train-0000{i}.tar").rename(shards / f"0000{i}.tar")
    assert len(build(shards)) == 17


def test_labels_as_names_are_numbered_in_sorted_order(tmp_path):
    names = ("dog", "cat", "dog")
    write(
        tmp_path / "a.tar",
        [m for i, n in enumerate(names) for m in ((f"{i}.png", b"x"), (f"{i}.txt", n.encode()))],
    )
    source = build(tmp_path, label_key="txt")
    assert source.class_names == ("cat", "dog")
    assert source.labels().tolist() == [e["label"] for e in source] == [1, 0, 1]
    (tmp_path / "names.txt").write_text("dog\nrat\ncat\n")
    source = build(tmp_path, label_key="txt", class_names=str(tmp_path / "names.txt"))
    assert source.class_names == ("dog", "rat", "cat")
    assert source.labels().tolist() == [0, 2, 0]


def test_captions_and_labels_from_json(tmp_path):
    infos = [
        {"captions": ["one", "two"], "about": {"class": 1}},
        {"captions": "three", "about": {"class": 0}},
    ]
    members = []
    for i, info in enumerate(infos):
        members += [(f"{i}.jpg", image(i)), (f"{i}.json", json.dumps(info).encode())]
    write(tmp_path / "a.tar", members)
    options = {"caption_key": "json.captions", "text": "lower"}
    source = build(tmp_path, label_key="json.about.class", **options)
    assert [e["captions"] for e in source] == [("one", "two"), ("three",)]
    assert [e["label"] for e in source] == source.labels().tolist() == [1, 0]
    source = build(tmp_path, **options)  # captions alone
    assert source.class_names == ()
    assert "label" not in source[0]
    assert source.labels().tolist() == [0, 0]
    text = refused(tmp_path, caption_key="json.caption", text="lower")
    assert text.startswith("data.train.caption_key: ")
    assert "has no field 'json.caption' (did you mean 'json.captions'?)" in text


def test_names_with_dots_before_the_ending_are_said_to_share_a_key(tmp_path):
    pairs = [((f"a.{i}.png", image(i)), (f"a.{i}.txt", b"a")) for i in range(3)]
    write(tmp_path / "a.tar", [member for pair in pairs for member in pair])
    text = refused(tmp_path, text="lower")
    assert "has no member 'txt' (did you mean '2.txt'?); its members are: 0.png, 0.txt, " in text
    assert text.endswith(
        "A key ends at the first dot of a file's name: of KEY.0.txt the member is '0.txt'; have no "
        "other dot in the names"
    )
    plain = [member for pair in pairs for member in pair if member[0].endswith("png")]
    write(tmp_path / "a.tar", [(name.replace("png", "gif"), data) for name, data in plain])
    assert "A key ends" not in refused(tmp_path)


def test_captions_from_txt_and_parts(tmp_path):
    members = [
        m for i in range(8) for m in ((f"{i}.webp", image(i)), (f"{i}.txt", b" number %d\n" % i))
    ]
    write(tmp_path / "a.tar", members)
    source = build(tmp_path, text="lower", part="[50%:]")
    assert [source[i]["captions"] for i in range(4)] == [(f"number {i}",) for i in range(4, 8)]
    held, rest = (build(tmp_path, text="x", part=f"{p}(25%, seed=0)") for p in ("held_out", "rest"))
    assert sorted(e["captions"] for e in [*held, *rest]) == [(f"number {i}",) for i in range(8)]


def test_keys_and_fields_follow_webdatasets_rule(tmp_path):
    """The key ends at the first dot of the file's name; endings are in small letters."""
    write(
        tmp_path / "a.tar",
        [
            ("v1.0/x.seg.png", b"mask"),
            ("v1.0/x.JPG", b"photo"),
            ("v1.0/.hidden.jpg", b"no"),
            ("README", b"no"),
            ("v1.0/x.cls", b"0"),
            ("y.cls", b"1"),
            ("y.jpeg", b"second"),
        ],
    )
    source = build(tmp_path)
    assert [e["image"] for e in source] == [b"photo", b"second"]
    assert source.name_of(0).endswith("a.tar, v1.0/x")
    assert build(tmp_path, image_key="seg.png")[0]["image"] == b"mask"


def test_webdataset_reads_the_same(shards):
    wds = pytest.importorskip("webdataset")
    paths = [str(shards / f"train-0000{i}.tar") for i in range(2)]
    theirs = list(wds.WebDataset(paths, shardshuffle=False))
    ours = build(shards, split="train")
    assert [e["jpg"] for e in theirs] == [e["image"] for e in ours]
    assert [int(e["cls"]) for e in theirs] == ours.labels().tolist()
    assert [e["__key__"] for e in theirs] == [
        ours.name_of(i).split(", ")[1] for i in range(len(ours))
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_agrees_with_the_standard_library(tmp_path, form):
    folder = "/".join(["directory"] * 12)  # 120 characters: ustar splits, GNU and pax lengthen
    names = ["a.jpg", f"{folder}/{'b' * 60}.jpg", "a.cls", f"{folder}/{'b' * 60}.cls"]
    if form != tarfile.USTAR_FORMAT:
        names += [f"{folder}/{'c' * 120}.jpg", f"{folder}/{'c' * 120}.cls", "ä ö.jpg", "ä ö.cls"]
    path = write(tmp_path / "a.tar", [(n, n.encode() * 30) for n in names], form)
    index = tar_index.scan(str(path), frozenset(), "data.train")
    ours = set()
    for i in range(len(index)):
        key = index.keys[i].decode()
        for field, row in index.members(i).items():
            ours.add((f"{key}.{field}", int(index.start[row]), int(index.size[row])))
    with tarfile.open(path) as archive:
        theirs = {(m.name, m.offset_data, m.size) for m in archive.getmembers()}
    assert ours == theirs
    source = build(tmp_path, label_key="jpg")
    assert [e["image"] for e in source] == [n.encode() * 30 for n in names if n.endswith("jpg")]


def test_sizes_above_8_gib_are_binary_numbers():
    from big_vit_lite.data.sources.tar_headers import members

    member = tarfile.TarInfo("big.jpg")
    member.size = 9 << 30
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        head = member.tobuf(format=form)

        def read_at(start, size, head=head):
            zeros = len(head) + (9 << 30) + 1024 - start
            return (head[start : start + size] + bytes(512))[: min(size, max(0, zeros))]

        name, start, size, check = next(members(read_at))
        assert (name, start, size) == ("big.jpg", len(head), 9 << 30)
        assert check == zlib.crc32(head[-512:])


def test_members_of_an_example_need_not_stand_together(tmp_path):
    members = numbered(range(6))
    write(tmp_path / "a.tar", members[::2] + [("x.bin", bytes(200_000))] + members[1::2])
    source = build(tmp_path)
    for i in range(6):
        assert source[i] == {"image": image(i), "label": i % 3}
    assert len(source) == 7  # x has no image: named when it is read
    with pytest.raises(BadExample, match=r"a.tar, x: has no image \(.jpg, .jpeg, .png, .webp\)"):
        source[6]


def test_bad_examples_are_named(tmp_path):
    path = write(
        tmp_path / "a.tar",
        [
            *numbered(range(4)),
            ("wrong.jpg", b"x"),
            ("wrong.cls", b"dog"),
            ("far.jpg", b"x"),
            ("far.cls", b"-1"),
            ("none.jpg", b"x"),
            ("empty.jpg", b""),
            ("empty.cls", b"0"),
            ("bytes.jpg", b"x"),
            ("bytes.cls", b"\xff\xfe"),
        ],
    )
    source = build(tmp_path)
    assert source.class_names == ("0", "1", "2")
    assert source.labels().tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 0]
    for i, text in (
        (4, "wrong: label 'dog' is not one of the 3 classes; correct it or leave"),
        (5, "far: label '-1' is not one of the 3 classes"),
        (6, "none: has no member .cls"),
        (7, "empty: .jpg is empty"),
        (8, "bytes: .cls is no UTF-8 text ("),
    ):
        with pytest.raises(BadExample) as error:
            source[i]
        assert str(error.value).startswith(f"{path}, {text}")
        assert "\n" not in str(error.value)


def test_bad_captions_are_named(tmp_path):
    good = json.dumps({"captions": ["a"], "n": 1}).encode()
    bodies = [good, b'{"n": 1}', b'{"captions": []}', b'{"captions": ["a", " "]}', b"{torn"]
    bodies += [b'{"captions": 3}', b'{"captions": [3]}']
    members = [m for i, b in enumerate(bodies) for m in ((f"{i}.jpg", b"x"), (f"{i}.json", b))]
    write(tmp_path / "a.tar", [*members, ("last.jpg", b"x")])
    source = build(tmp_path, text="lower", caption_key="json.captions")
    assert source[0]["captions"] == ("a",)
    for i, text in (
        (1, "1: json.captions holds no caption"),
        (2, "2: json.captions holds no caption"),
        (3, "3: json.captions holds an empty caption"),
        (4, "4: .json is no JSON (Expecting property name"),
        (5, "5: json.captions holds 3, which is no text"),
        (6, "6: json.captions holds 3, which is no text"),
        (7, "last: has no member .json"),
    ):
        with pytest.raises(BadExample) as error:
            source[i]
        assert f"a.tar, {text}" in str(error.value)


def test_a_column_that_is_nowhere_is_refused(shards):
    text = refused(shards, split="train", label_key="class")
    assert text.startswith(f"data.train.label_key: {shards / 'train-00000.tar'} has no member")
    assert "(did you mean 'cls'?); its members are: cls, jpg" in text
    assert "has no member 'txt'" in refused(shards, split="train", text="lower")
    assert "data.train.image_key" in refused(shards, split="train", image_key="png")


def test_what_is_not_there_is_refused(shards, tmp_path):
    assert "data.train.path: /nowhere does not exist; give a tar file" in refused("/nowhere")
    assert "data.train.split is not set: " in refused(shards)
    assert "holds train, val; name one" in refused(shards)
    assert "has no test-*.tar; its splits are: train, val" in refused(shards, split="test")
    text = refused(shards / "train-{00000..00004}.tar")
    assert "3 of 5 shards of" in text
    assert "the first is" in text and "train-00002.tar; copy the data set again" in text
    assert "no file is named" in refused(shards / "none-{0..4}.tar")
    assert "no file is named" in refused(shards / "none-*.tar")
    assert "{4..0} counts down" in refused(shards / "train-{4..0}.tar")
    (shards / "empty").mkdir()
    assert "holds *.tar; give the folder that does" in refused(shards / "empty")
    write(tmp_path / "bare" / "a.tar", [("README", b"x")])
    assert "a.tar holds no members such as KEY.jpg" in refused(tmp_path / "bare")


def test_broken_shards_are_refused_with_the_place(tmp_path):
    whole = packed(numbered(range(3)))
    path = tmp_path / "a.tar"

    def refusal(data):
        path.write_bytes(data)
        text = refused(path)
        assert text.startswith(f"data.train.path: {path} ")
        return text

    assert "is empty; copy it again" in refusal(b"")
    assert "is cut off: it ends before byte 1024 is complete; copy it" in refusal(whole[:700])
    assert "is cut off: it ends before byte 3072 is complete" in refusal(whole[:3072])
    assert "is cut off: it ends before byte 3072 is complete" in refusal(whole[:3200])
    damaged = bytearray(whole)
    damaged[1024 + 130] ^= 1  # the size in the second header
    assert "is broken at byte 1024, where the header of a member should" in refusal(bytes(damaged))
    assert "is no tar file; give the .tar files" in refusal(b"\xff\xd8\xff" + bytes(2000))
    assert "is compressed with gzip, which leaves no way" in refusal(gzip.compress(whole))
    assert "goes on behind its end, at byte 10240; archives that were" in refusal(2 * whole)
    twice = packed([*numbered(range(3)), ("0001.jpg", b"again")])
    assert "holds 0001.jpg twice (again at byte 6144)" in refusal(twice)


def test_every_cut_is_noticed(tmp_path):
    """No shortened shard reads as a whole one, unless only its padding of zeros is gone."""
    whole = packed(numbered(range(3)))
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in [*range(0, end + 1, 256), *range(end - 3, end)]:
        path = tmp_path / "a.tar"
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is cut off|is empty"):
            tar_index.scan(str(path), frozenset(), "data.train")
    path.write_bytes(whole[: end + 512])
    assert len(tar_index.scan(str(path), frozenset(), "data.train")) == 3


def test_links_and_compressed_folders_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("0.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "1.jpg"
        archive.addfile(member)
    assert "holds 0.jpg as a link; pack it with --dereference" in refused(path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tar.gz").write_bytes(b"x")
    assert "a.tar.gz is compressed, which leaves no way" in refused(tmp_path / "packed")


def test_a_second_start_reads_no_headers(shards, monkeypatch):
    first = build(shards, split="train")
    assert (shards / "train-00001.tar.index.npz").is_file()
    monkeypatch.setattr(tar_index, "scan", None)
    second = build(shards, split="train")
    assert list(second) == list(first)
    assert [second.name_of(i) for i in range(17)] == [first.name_of(i) for i in range(17)]


def test_another_label_key_completes_the_index(tmp_path):
    members = [m for i in range(3) for m in ((f"{i}.jpg", b"x"), (f"{i}.txt", b"class %d" % i))]
    members += [(f"{i}.cls", b"%d" % i) for i in range(3)]
    path = write(tmp_path / "a.tar", members)
    assert build(path).class_names == ("0", "1", "2")
    assert build(path, label_key="txt").class_names == ("class 0", "class 1", "class 2")
    known = tar_index.open_index(str(path))
    assert set(known.contents) == {"cls", "txt"}
    assert [*known.contents["txt"].all()] == [b"class 0", b"class 1", b"class 2"]


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_an_index_that_cannot_be_read_is_made_again(shards, damage):
    kept = shards / "val-00000.tar.index.npz"
    first = build(shards, split="val")
    data = kept.read_bytes()
    kept.write_bytes(data[: len(data) // 2] if damage is None else damage)
    assert list(build(shards, split="val")) == list(first)
    assert len(kept.read_bytes()) == len(data)


def test_a_changed_shard_is_indexed_anew_at_the_start(shards):
    assert len(build(shards, split="val")) == 5
    write(shards / "val-00000.tar", numbered(range(20, 28)))
    source = build(shards, split="val")
    assert [e["image"] for e in source] == [image(i) for i in range(20, 28)]


def test_a_shard_that_changes_during_the_run_ends_it(shards):
    path = shards / "val-00000.tar"
    source, times = build(shards, split="val"), path.stat()
    assert source[0]["image"] == image(0)
    write(path, numbered(range(20, 25)))
    for reader in (source, pickle.loads(pickle.dumps(source))):
        with pytest.raises(RunError) as error:
            reader[1]
        assert str(error.value).startswith(f"{path}: has changed since the run began; start again")
        assert not isinstance(error.value, BadExample)
    # Size and time of change can lie; the header before each member cannot.
    source = build(shards, split="val")
    times = path.stat()
    write(path, numbered(range(40, 45)))
    path.write_bytes(path.read_bytes()[: times.st_size].ljust(times.st_size, b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(RunError, match="has changed since the run began"):
        source[1]


def test_a_shard_that_vanished_is_named(shards):
    source = pickle.loads(pickle.dumps(build(shards, split="val")))
    (shards / "val-00000.tar").unlink()
    with pytest.raises(RunError, match=r"val-00000.tar: cannot be read \(No such file"):
        source[0]


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache(shards, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shards / "cache"))
    blocked = shards / "val-00000.tar.index.npz"
    (blocked / "in the way").mkdir(parents=True)
    first = build(shards, split="val")
    kept = list((shards / "cache" / "big_vit_lite" / "tar").iterdir())
    assert [file.suffix for file in kept] == [".npz"]
    assert not list(shards.glob("*.part"))
    monkeypatch.setattr(tar_index, "scan", None)
    assert list(build(shards, split="val")) == list(first)


def test_without_any_place_for_the_index_the_run_goes_on(shards, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shards / "train-00000.tar"))  # no folder
    (shards / "val-00000.tar.index.npz" / "in the way").mkdir(parents=True)
    assert len(build(shards, split="val")) == 5


def test_processes_that_index_at_once_all_succeed(shards):
    code = (
        "from big_vit_lite.config import Split\n"
        "from big_vit_lite.data import sources\n"
        f"s = sources.build(Split(source='tar', path={str(shards)!r}, split='train', transform=''))"
        "\nprint(len(s), sum(s.labels()))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].split() for process in running] == 2 * [["17", "16"]]
    assert not list(shards.glob("*.part"))


def test_an_index_is_whole_at_any_moment(shards):
    path = str(shards / "val-00000.tar")
    index = tar_index.open_index(path, frozenset({"cls"}))
    place, stop, seen = Path(f"{path}.index.npz"), threading.Event(), []

    def write_on():
        while not stop.is_set():
            assert tar_index._save(index, place)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write_on) for _ in range(2)]
        for _ in range(50):
            seen.append(tar_index._load(place))
        stop.set()
        for writer in writers:
            writer.result()
    assert all(known is not None and len(known) == 5 for known in seen)


def test_four_threads_and_a_pickled_copy_read_the_same(shards):
    source = build(shards, split="train")
    expected = list(source)
    order = np.random.default_rng(0).integers(0, 17, 400).tolist()
    for reader in (source, pickle.loads(pickle.dumps(source))):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(reader.__getitem__, order)) == [expected[i] for i in order]


@pytest.fixture
def store():
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/tar-test", recursive=True)


def test_shards_on_a_store(store, monkeypatch):
    for shard, rows in (("train-00000", range(10)), ("train-00001", range(10, 17))):
        store.pipe(f"/tar-test/{shard}.tar", packed(numbered(rows)))
    for path in ("", "/train-{00000..00001}.tar", "/train-*.tar"):
        source = build(f"memory://tar-test{path}")
        assert [e["image"] for e in source] == [image(i) for i in range(17)]
        assert source.labels().tolist() == [i % 3 for i in range(17)]
    assert source.name_of(12) == "memory://tar-test/train-00001.tar, 0012"
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.__getitem__, range(17))) == list(source)
    store.pipe("/tar-test/train-00001.tar", packed(numbered(range(30, 37))))
    for reader in (source, pickle.loads(pickle.dumps(source))):
        with pytest.raises(RunError, match="memory://tar-test/train-00001.tar: has changed since"):
            reader[12]
    store.pipe("/tar-test/train-00001.tar", packed(numbered(range(3)))[:1000])
    assert "train-00001.tar is cut off" in refused("memory://tar-test")


def test_an_example_is_one_request_to_the_store(store, monkeypatch):
    store.pipe("/tar-test/a.tar", packed(numbered(range(10))))
    source, asked = build("memory://tar-test/a.tar"), []
    read = type(store).cat_file
    monkeypatch.setattr(
        type(store), "cat_file", lambda *a, **k: (asked.append(k), read(*a, **k))[1]
    )
    assert [e["image"] for e in source] == [image(i) for i in range(10)]
    assert len(asked) == 10


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs photographs beside the repository")
def test_real_photographs(tmp_path):
    for name in ("imagenet-samples", "flickr-captions"):
        (tmp_path / name).mkdir()
        for file in (SHARED / name).glob("*.tar"):
            (tmp_path / name / file.name).symlink_to(file)
    source = build(tmp_path / "imagenet-samples", label_key="txt")
    assert len(source) == len(source.class_names) == 256
    assert sorted(source.labels().tolist()) == list(range(256))
    named = source.class_names[source[0]["label"]]
    assert source.name_of(0).endswith("val-00000.tar, n01496331_electric_ray")
    assert named == "electric ray"
    captions = build(
        tmp_path / "flickr-captions", split="train", text="x", caption_key="json.captions"
    )
    assert len(captions) == 700
    assert {len(example["captions"]) for example in captions} == {5}
