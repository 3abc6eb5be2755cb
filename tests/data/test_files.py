"""Files by name: the same answers for local paths and for URLs, whatever thread asks."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.data import files

TREE = ("b/two.bin", "b/deep/three.bin", "a.bin", "b/.hidden", ".git/x", "__MACOSX/x", "b/__y/z")


@pytest.fixture(params=["local", "store"])
def tree(request, tmp_path):
    """A folder with TREE in it; every file holds its own name."""
    if request.param == "local":
        for name in TREE:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        yield str(tmp_path)
    else:
        memory = fsspec.filesystem("memory")
        for name in TREE:
            memory.pipe(f"/files-test/{name}", name.encode())
        yield "memory://files-test"
        memory.rm("/files-test", recursive=True)


def change(path, data):
    if files.is_url(path):
        fsspec.filesystem("memory").pipe(path, data)
    else:
        with open(path, "wb") as file:
            file.write(data)


def test_what_is_there(tree):
    join = files.join
    assert files.is_dir(tree) and files.exists(tree) and not files.is_file(tree)
    path = join(tree, "b", "two.bin")
    assert files.is_file(path) and files.exists(path) and not files.is_dir(path)
    assert not files.exists(join(tree, "none")) and not files.is_dir(join(tree, "none"))
    assert files.name_of(path) == "two.bin"
    assert files.parent(path) == join(tree, "b")
    assert files.children(tree) == (["b"], ["a.bin"])
    assert files.walk(tree) == ["a.bin", "b/deep/three.bin", "b/two.bin"]
    assert files.walk(join(tree, "b")) == ["deep/three.bin", "two.bin"]
    assert files.normal(tree + "/") == tree
    assert files.normal("file:///x/y") == "/x/y"


def test_reading(tree):
    path = files.join(tree, "b", "two.bin")
    assert files.read(path) == b"b/two.bin"
    with files.open_binary(path) as file:
        file.seek(2)
        assert file.read() == b"two.bin"
    missing = files.join(tree, "none")
    for call in (files.read, files.fingerprint, files.open_binary):
        with pytest.raises(OSError) as error:
            call(missing)
        assert files.why(error.value) == "No such file or directory"


def test_patterns(tree):
    assert not files.is_pattern(tree)
    star = files.join(tree, "*", "*.bin")
    assert files.is_pattern(star)
    assert files.expand(star) == [files.join(tree, "b", "two.bin")]
    assert files.expand(files.join(tree, "{b,}", "t*.bin"))[0] == files.join(tree, "b", "two.bin")


def test_braces_stand_for_names_in_their_order():
    assert files.expand("x-{08..11}.tar") == [f"x-{i:02d}.tar" for i in range(8, 12)]
    assert files.expand("x-{8..10}") == ["x-8", "x-9", "x-10"]
    assert files.expand("{b,a}{0..1}") == ["b0", "b1", "a0", "a1"]
    assert files.expand("gs://x/{a,b}.tar") == ["gs://x/a.tar", "gs://x/b.tar"]
    with pytest.raises(ValueError, match=r"\{3..1\} counts down"):
        files.expand("{3..1}")


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    path = tmp_path / "{a,b}.tar"
    path.write_text("x")
    assert not files.is_pattern(str(path))


def test_the_query_of_an_address_is_no_pattern():
    signed = "https://host/train.tar?token=a"
    assert not files.is_pattern(signed)
    assert files.expand(signed) == [signed]
    assert files.is_pattern("gs://b/train-0000?.tar") and files.is_pattern("https://h/{0..1}.tar")


def test_a_fingerprint_changes_with_the_file(tree):
    path = files.join(tree, "a.bin")
    before = files.fingerprint(path)
    assert files.fingerprint(path) == before
    change(path, b"other")
    assert files.fingerprint(path) != before


def test_ranges_from_threads_and_in_a_pickled_copy(tree):
    data = np.random.default_rng(0).bytes(100_000)
    paths = [files.join(tree, f"{i}.bin") for i in range(6)]
    for i, path in enumerate(paths):
        change(path, data[i:])
    prints = [files.fingerprint(path) for path in paths]
    ranges = files.Ranges(keep=2)  # fewer than files: descriptors close while others are read
    asked = [(n % 6, n * 37 % 90_000, n % 400) for n in range(600)]

    def same(ask):
        i, start, size = ask
        return reader.read(paths[i], start, size, prints[i]) == data[i:][start : start + size]

    for reader in (ranges, pickle.loads(pickle.dumps(ranges))):
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(same, asked))
        assert reader.read(paths[5], 99_990, 50, prints[5]) == data[99_995:]
    change(paths[0], b"changed")
    with pytest.raises(files.Changed):
        files.Ranges().read(paths[0], 0, 1, prints[0])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_descriptors_are_closed(tmp_path):
    paths = [tmp_path / str(i) for i in range(20)]
    for path in paths:
        path.write_bytes(b"x")

    def opened():
        return len(os.listdir("/proc/self/fd"))

    before, ranges = opened(), files.Ranges(keep=4)
    for path in paths:
        ranges.read(str(path), 0, 1, files.fingerprint(str(path)))
    assert opened() == before + 4
    del ranges
    assert opened() == before


def test_local_paths_do_not_import_fsspec(tmp_path):
    code = (
        "import sys; from big_vit_lite.data import files\n"
        f"files.read({str(tmp_path / 'a')!r}); files.walk({str(tmp_path)!r})\n"
        f"files.Ranges().read({str(tmp_path / 'a')!r}, 0, 1, "
        f"files.fingerprint({str(tmp_path / 'a')!r}))\n"
        "assert 'fsspec' not in sys.modules"
    )
    (tmp_path / "a").write_text("x")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for protocol in ("gs", "s3"):  # which another test may have used
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    for url, protocol, library in (
        ("gs://bucket/x", "gs", "gcsfs"),
        ("s3://bucket/x", "s3", "s3fs"),
    ):
        with pytest.raises(InputError) as error:
            files.require(url, "data.train.path")
        assert str(error.value) == (
            f"data.train.path: reading {protocol}:// needs a library that is missing: "
            f"pip install {library}"
        )
    with pytest.raises(InputError, match=r"data.val.path: nope://x cannot be opened \(Protocol"):
        files.require("nope://x", "data.val.path")
    files.require("/a/local/path", "data.train.path")
    files.require("memory://x", "data.train.path")


def test_errors_of_a_stores_own_library_are_errors_of_the_system(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("403 Forbidden\nwith a long explanation")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", refuse)
    with pytest.raises(OSError) as error:
        files.read("memory://files-test/x")
    assert files.why(error.value) == "403 Forbidden"
    assert error.value.filename == "memory://files-test/x"
