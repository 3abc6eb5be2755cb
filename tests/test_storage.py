"""Places: local paths and objects of a store, and what is said of URLs that are neither."""

import hashlib
import importlib.util
import os
from pathlib import Path

import pytest

from big_vit_lite import storage

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.skipif(
        importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed (extra: gcs)"
    ),
]


def test_local_paths_stay_pathlibs_and_urls_become_objects():
    assert storage.place("runs/a") == Path("runs/a")
    assert storage.place(Path("/x")) == Path("/x")
    place = storage.place("gs://bucket/runs//a/")
    assert str(storage.place(Path("gs://bucket/run"))) == "gs://bucket/run"
    assert storage.place(place) is place and storage.is_store(place)
    assert (place.name, place.parent.name) == ("a", "runs")
    with pytest.raises(TypeError):
        os.fspath(place)  # open() would make a file in a folder called "gs:"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://bucket/run", "wants a folder of this machine or gs://BUCKET/FOLDER"),
        ("gs://", "names no bucket; wants gs://BUCKET/FOLDER"),
    ],
)
def test_other_urls_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        storage.place(text)


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "gcsfs>=2025.3,<2028"'):
        storage.place("gs://bucket/run")


def test_objects_are_written_whole_and_created_once(store, monkeypatch):
    place = storage.place("gs://bucket/objects/a")
    assert not place.is_file() and not place.is_dir()
    first = place.write_if(b"first", 0)
    assert place.generation() == first > 0 and place.write_if(b"second", 0) is None
    assert place.read_bytes() == b"first" and place.size() == 5
    second = place.write_if(b"other", first)
    assert place.write_if(b"third", first) is None and place.read_bytes() == b"other"
    assert not place.unlink_if(first) and place.generation() == second != first
    assert place.unlink_if(second) and not place.unlink_if(second) and place.generation() == 0
    storage.replace(place, b"\r\n\x00--\n\n")
    assert place.read_bytes() == store.objects["objects/a"][1] == b"\r\n\x00--\n\n"
    with pytest.raises(ZeroDivisionError), place.open("wb") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert place.size() == 7  # what was not finished is not there
    with place.open("w") as file:
        file.write("ü\n")
    with place.open() as file:
        assert file.readline() == "ü\n"
    content = bytes(range(256)) * 40
    monkeypatch.setattr(storage, "_PART", 4096)
    place.write_bytes(content)
    with place.open("rb") as file:
        assert file.read(5000) + file.read() == content
    with place.open("rb") as file:
        assert hashlib.file_digest(file, "md5").digest() == hashlib.md5(content).digest()


def test_folders_are_what_names_share(store):
    folder = storage.place("gs://bucket/tree")
    folder.mkdir(parents=True)
    assert not folder.is_dir()
    for name in ("b", "deep/er/c", "deep/a"):
        (folder / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["b", "deep"]
    assert storage.files_below(folder) == {"b": 1, "deep/a": 6, "deep/er/c": 9}
    store.write("tree/new", b"from elsewhere")  # listings are not remembered
    assert [path.name for path in folder.iterdir()] == ["b", "deep", "new"]
    storage.remove_tree(folder / "deep")
    assert set(storage.files_below(folder)) == {"b", "new"}
    storage.remove_tree(folder / "deep")
    (folder / "b").unlink()
    (folder / "b").unlink(missing_ok=True)
    for call in ((folder / "b").unlink, (folder / "b").read_bytes):
        with pytest.raises(FileNotFoundError, match="there is no such object.*gs://bucket/tree/b"):
            call()


def test_files_below_a_local_folder_are_listed_alike(tmp_path):
    (tmp_path / "deep").mkdir()
    storage.replace(tmp_path / "deep" / "a", b"12")
    storage.replace(tmp_path / "deep" / "a", b"123")
    assert storage.files_below(tmp_path) == {"deep/a": 3}


def test_what_a_store_refuses_is_an_oserror_that_names_the_object(store):
    place = storage.place("gs://bucket/closed/a")
    store.refuse = lambda method, name: 403 if name.startswith("closed/") else None
    with pytest.raises(OSError):
        place.write_text("x")
    with pytest.raises(FileNotFoundError, match="no such bucket.*gs://nobodys/a"):
        storage.place("gs://nobodys/a").write_text("x")
