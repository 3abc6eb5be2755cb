"""Tables of image files: rows, captions of one image, labels, and lines that are wrong."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from big_vit_lite.config import InputError, Split
from big_vit_lite.data import sources
from big_vit_lite.data.sources import table_rows
from big_vit_lite.data.sources.base import BadExample


def build(path, where="data.train", **options):
    return sources.build(Split(source="table", path=str(path), transform="", **options), where)


def refused(path, **options):
    with pytest.raises(InputError) as error:
        build(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def bad(source, i):
    with pytest.raises(BadExample) as error:
        source[i]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def images(tmp_path):
    """images/0.jpg .. images/4.jpg, which hold their own names."""
    (tmp_path / "images").mkdir()
    for i in range(5):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(f"image {i}".encode())
    return tmp_path


ROWS = [(f"images/{i}.jpg", name) for i, name in enumerate(["dog", "cat", "dog", "ant", "cat"])]


def as_text(form, rows, columns=("path", "label")):
    if form == "jsonl":
        return "".join(
            json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows
        ).encode()
    between = "\t" if form == "tsv" else ","
    return "".join(between.join(row) + "\n" for row in [columns, *rows]).encode()


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_rows_in_order_and_classes_sorted(images, form):
    path = images / f"train.{form}"
    path.write_bytes(as_text(form, ROWS))
    for source in (build(path), build(images, split="train"), build(images)):
        assert len(source) == 5
        assert [e["image"] for e in source] == [f"image {i}".encode() for i in range(5)]
        assert source.class_names == ("ant", "cat", "dog")
        assert source.labels().tolist() == [e["label"] for e in source] == [2, 1, 2, 0, 1]
        line = 2 if form == "jsonl" else 3
        assert source.name_of(1) == f"{path}, line {line} (images/1.jpg)"
    with pytest.raises(IndexError):
        source[5]
    held, rest = (build(path, part=f"{part}(2, seed=0)") for part in ("held_out", "rest"))
    assert sorted(e["image"] for e in [*held, *rest]) == [e["image"] for e in source]


def test_labels_are_numbers_where_most_are(images):
    rows = [(name, label) for (name, _), label in zip(ROWS, "01210", strict=True)]
    (images / "a.csv").write_bytes(as_text("csv", rows))
    source = build(images / "a.csv")
    assert source.class_names == ("0", "1", "2")
    assert source.labels().tolist() == [0, 1, 2, 1, 0]
    (images / "names.txt").write_text("ant\nbee\ncow\ndog\n")
    source = build(images / "a.csv", class_names=str(images / "names.txt"))
    assert source.class_names == ("ant", "bee", "cow", "dog")
    assert source.labels().tolist() == [0, 1, 2, 1, 0]
    numbers = [{"path": name, "label": i} for i, (name, _) in enumerate(ROWS)]
    (images / "a.jsonl").write_text("\n".join(map(json.dumps, numbers)))
    assert build(images / "a.jsonl").labels().tolist() == [0, 1, 2, 3, 4]


def test_given_names_number_names(images):
    """A validation table that lacks a class numbers the others as training does."""
    (images / "a.csv").write_bytes(as_text("csv", ROWS[:2]))
    (images / "names.txt").write_text("dog\nant\ncat\n")
    source = build(images / "a.csv", class_names=str(images / "names.txt"))
    assert source.class_names == ("dog", "ant", "cat")
    assert source.labels().tolist() == [0, 2]


def test_wrong_labels_are_named_by_line(images):
    labels = ["0", "1", "dog", "-3", ""]
    rows = [(name, label) for (name, _), label in zip(ROWS, labels, strict=True)]
    path = images / "a.csv"
    path.write_bytes(as_text("csv", rows))
    source = build(path)
    assert source.class_names == ("0", "1")
    assert source.labels().tolist() == [0, 1, 0, 0, 0]
    start = f"{path}, line 4 (images/2.jpg): label 'dog' is not one of the 2 classes; "
    assert bad(source, 2) == start + "correct it or leave the row out with a part"
    assert f"{path}, line 5 (images/3.jpg): label '-3' is" in bad(source, 3)
    assert f"{path}, line 6 (images/4.jpg): label '' is" in bad(source, 4)
    lines = [{"path": "images/0.jpg", "label": v} for v in ("dog", None, True, "cat")]
    (images / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = build(images / "a.jsonl")
    assert source.class_names == ("cat", "dog")
    for i in (1, 2):
        assert f"a.jsonl, line {i + 1} (images/0.jpg): label None is not" in bad(source, i)


def test_rows_with_one_path_are_captions_of_one_image(images):
    rows = [("images/1.jpg", "b", "0"), ("images/0.jpg", "a", "1"), ("images/1.jpg", "c", "0")]
    path = images / "a.csv"
    path.write_bytes(as_text("csv", rows, ("path", "caption", "label")))
    source = build(path, text="lower")
    assert len(source) == 2
    assert source[0] == {"image": b"image 1", "captions": ("b", "c")}
    assert source[1] == {"image": b"image 0", "captions": ("a",)}
    assert source.class_names == ()
    assert source.labels().tolist() == [0, 0]
    assert source.name_of(1) == f"{path}, line 3 (images/0.jpg)"
    both = build(path, text="lower", label_key="label")
    assert [(e["label"], e["captions"]) for e in both] == [(0, ("b", "c")), (1, ("a",))]
    assert both.labels().tolist() == [0, 1]
    assert len(build(path)) == 3  # rows stay rows where no captions are wanted
    path.write_bytes(
        as_text("csv", [*rows[:2], ("images/1.jpg", "c", "1")], ("path", "caption", "label"))
    )
    text = bad(build(path, text="lower", label_key="label"), 0)
    assert text.endswith(
        "line 4 (images/1.jpg): label '1' of an image that has label '0' in line 2"
    )


def test_caption_lists_in_json(images):
    lines = [
        {"path": "images/0.jpg", "caption": ["a", "b"]},
        {"path": "images/1.jpg", "caption": "c", "other": {"x": 1}},
        {"path": "images/0.jpg", "caption": ["d"]},
    ]
    (images / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = build(images / "a.jsonl", text="lower")
    assert [e["captions"] for e in source] == [("a", "b", "d"), ("c",)]


def test_open_clips_layout(images):
    """Tabs in a file that ends with .csv, columns filepath and title, quotes around quotes."""
    path = images / "train.csv"
    path.write_text(f'filepath\ttitle\n{images}/images/3.jpg\t"a ""big"" dog, running"\n')
    source = build(path, image_key="filepath", caption_key="title", text="lower")
    assert source[0] == {"image": b"image 3", "captions": ('a "big" dog, running',)}


def test_line_breaks_within_values(images):
    path = images / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfpath,caption\r\nimages/0.jpg,"two\nlines"\r\nimages/9.jpg,x\r\n')
    source = build(path, text="lower")
    assert source[0]["captions"] == ("two\nlines",)
    # Which line a row stands in is unknown then, its number is not.
    assert f"{path}, row 2 (images/9.jpg): the image cannot be read" in bad(source, 1)


def test_a_quote_that_is_not_closed_is_no_caption_of_many_lines(images):
    rows = ["path\tcaption", '1.png\t"starts with a quote', "2.png\tnext", '3.png\ta "b" c']
    path = images / "q.tsv"
    path.write_text("\n".join([*rows, '4.png\tends here"', ""]))
    text = refused(path, text="lower")
    assert f"{path}: the caption 'starts with a quote" in text and "goes over several lines" in text
    rows = [rows[0], 'images/0.jpg\t"""starts"" with a quote"', 'images/1.jpg\ta "b" c', ""]
    path.write_text("\n".join(rows))
    captions = [example["captions"] for example in build(path, text="lower")]
    assert captions == [('"starts" with a quote',), ('a "b" c',)]


def test_captions_and_files_that_lack_are_named_by_line(images):
    rows = [("images/0.jpg", "a"), ("images/1.jpg", " "), ("none.jpg", "b"), ("", "c")]
    rows += [("images/2.jpg", "d"), ("images/2.jpg", "")]
    path = images / "a.csv"
    path.write_bytes(as_text("csv", rows, ("path", "caption")))
    source = build(path, text="lower")
    assert source[0]["captions"] == ("a",)
    assert bad(source, 1) == (
        f"{path}, line 3 (images/1.jpg): column 'caption' holds an empty caption"
    )
    assert bad(source, 2) == (
        f"{path}, line 4 (none.jpg): the image cannot be read (No such file or directory); "
        "restore the file or take the row out"
    )
    assert bad(source, 3) == f"{path}, line 5 (): column 'path' names no file"
    assert bad(source, 4) == (
        f"{path}, line 7 (images/2.jpg): column 'caption' holds an empty caption"
    )
    (images / "a.jsonl").write_text(
        '{"path": "images/0.jpg", "caption": "a"}\n{"path": "images/1.jpg"}\n'
        '{"path": "images/2.jpg", "caption": [1]}\n{"caption": "x"}\n{"caption": "y"}\n'
    )
    source = build(images / "a.jsonl", text="lower")
    assert "a.jsonl, line 2 (images/1.jpg): column 'caption' holds no caption" in bad(source, 1)
    assert "a.jsonl, line 3 (images/2.jpg): column 'caption' holds None, which" in bad(source, 2)
    assert "a.jsonl, line 4 (): column 'path' names no file" in bad(source, 3)
    assert len(source) == 4


def test_refusals(images):
    path = images / "a.csv"
    assert "data.train.path: /nowhere does not exist; give a table (.csv" in refused("/nowhere")
    assert "holds no table (.csv" in refused(images)
    path.write_bytes(as_text("csv", ROWS, ("path", "lable")))
    text = refused(path)
    assert text == (
        f"data.train.label_key: {path} has no column 'label' (did you mean 'lable'?); "
        "its columns are: path, lable"
    )
    assert "data.train.caption_key: " in refused(path, text="lower")
    assert "data.train.image_key: " in refused(path, image_key="file")
    (images / "a.jsonl").write_bytes(as_text("jsonl", ROWS, ("path", "lable")))
    text = refused(images / "a.jsonl")
    assert "has no field 'label' (did you mean 'lable'?); its fields are: path, lable" in text
    assert "holds a.csv, a.jsonl; give one of them" in refused(images)
    assert "has no table 'b'; its tables are: a.csv, a.jsonl" in refused(images, split="b")
    path.write_bytes(b"")
    assert f"{path} is empty; its first line holds the column names" in refused(path)
    path.write_bytes(b"path,label\n")
    assert f"{path} holds no rows below its column names" in refused(path)
    path.write_bytes(b"path,label\na,b\nc,d,e\n")
    text = refused(path)
    assert "cannot be read (CSV parse error: Row #3: Expected 2 columns, got 3" in text
    assert "quote values that hold commas" in text
    path.write_bytes(b"path,label\n\xff\xfe,b\n")
    assert "write it as UTF-8" in refused(path)
    path.write_bytes(b"path,lab\xff\n")
    assert "write it as UTF-8" in refused(path)
    path.rename(images / "a.txt")
    assert "is no table; tables end with .csv, .tsv" in refused(images / "a.txt")
    lines = images / "a.jsonl"
    for body, text in (
        (b'{"path": "a", "label": "b"}\n{torn\n', "line 2 cannot be read as JSON (Expecting"),
        (b'{"path": "a", "label": "b"}\n[1]\n', "line 2 cannot be read as JSON (not an object"),
        (b'{"path": "a"}\n\n{"path": "b"}\n', "line 2 cannot be read as JSON (it is empty)"),
        (b"", "holds no rows"),
    ):
        lines.write_bytes(body)
        assert text in refused(lines)


def test_json_lines_in_several_chunks(images, monkeypatch):
    monkeypatch.setattr(table_rows, "_CHUNK", 2)
    (images / "a.jsonl").write_bytes(as_text("jsonl", ROWS))
    source = build(images / "a.jsonl")
    assert [e["label"] for e in source] == [2, 1, 2, 0, 1]
    assert [e["image"] for e in source] == [f"image {i}".encode() for i in range(5)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_four_threads_and_a_pickled_copy_read_the_same(images, form):
    path = images / f"a.{form}"
    path.write_bytes(
        as_text(
            form,
            [(*row, f"caption {i}") for i, row in enumerate(ROWS)],
            ("path", "label", "caption"),
        )
    )
    source = build(path, text="lower", label_key="label")
    for reader in (source, pickle.loads(pickle.dumps(source))):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(reader.__getitem__, 20 * [*range(5)])) == 20 * list(source)


def test_a_table_and_its_images_on_a_store(images):
    memory = fsspec.filesystem("memory")
    memory.pipe("/table-test/0.jpg", b"stored")
    rows = [("0.jpg", "a"), (f"{images}/images/1.jpg", "b"), ("memory://table-test/0.jpg", "c")]
    for form in ("csv", "jsonl"):
        memory.pipe(f"/table-test/a.{form}", as_text(form, [*rows, ("9.jpg", "a")]))
        source = build(f"memory://table-test/a.{form}")
        assert [source[i]["image"] for i in range(3)] == [b"stored", b"image 1", b"stored"]
        assert "(9.jpg): the image cannot be read (No such file" in bad(source, 3)
    memory.rm("/table-test", recursive=True)


def test_a_relative_path_is_relative_to_the_table(images, monkeypatch):
    (images / "a.csv").write_bytes(as_text("csv", ROWS))
    monkeypatch.chdir(images)
    assert build("a.csv")[2]["image"] == b"image 2"
    monkeypatch.chdir(Path(__file__).parent)
    assert build(images / "a.csv")[2]["image"] == b"image 2"
