"""similar: what it finds is what the whole matrix of the model's own features says."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from big_vit_lite.predict import main


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """What `embed` makes of all photographs, with paths that hold anywhere."""
    out = tmp_path_factory.mktemp("embedded")
    for name, ending in (("clip", "npy"), ("clip", "parquet"), ("dino", "npy")):
        argv = ["embed", world / name, world / "photos", "--out", out / f"{name}.{ending}"]
        assert main([str(word) for word in argv]) == 0
    return out


@pytest.fixture
def held(files, here):
    """Copies, that may be spoiled."""
    for path in files.iterdir():
        (here / path.name).write_bytes(path.read_bytes())
    return here


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_images_and_texts_find_what_is_nearest(ending, held, predict, records, model_of, world):
    queries, texts = ["photos/3.jpg", "photos/more/6.jpg"], ["a photo of a cat", "the sea"]
    (held / "texts.txt").write_text("\n".join(texts))
    out = predict("similar", "clip", *queries, "--embeddings", f"clip.{ending}", "--top", 4,
                  "--query", "texts.txt", "--json", "s.jsonl", "--html", "s.html")  # fmt: skip
    paths = (held / "clip.npy.paths.txt").read_text().splitlines()
    vectors = np.load("clip.npy").astype(np.float64)
    model = model_of("clip")
    asked = [model.encode_image(queries + paths[:7])[:2], model.encode_text(texts * 4)[:2]]
    scores = np.concatenate(asked).astype(np.float64) @ vectors.T
    read = records(held / "s.jsonl")
    assert [r.get("image") or r.get("text") for r in read] == queries + texts
    for record, row in zip(read, scores, strict=True):
        order = np.argsort(-row)[:4]
        assert [line["image"] for line in record["similar"]] == [paths[i] for i in order]
        np.testing.assert_allclose([x["cosine"] for x in record["similar"]], row[order], atol=1e-6)
    assert read[0]["similar"][0] == {"image": f"{world}/photos/3.jpg", "cosine": pytest.approx(1)}
    assert out.count("a photo of a cat") == 1 and str(world / "photos") in out.replace("\n", "")
    page = (held / "s.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 + 4 * 4 and "<q>the sea</q>" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<b>" not in page


def test_images_that_are_gone_leave_a_gap(here, predict):
    predict("embed", "dino", "photos", "--out", "a.npy")
    for path in (here / "photos").glob("*.jpg"):
        path.rename(here / path.name)
    predict("similar", "dino", "0.jpg", "--embeddings", "a.npy", "--top", 9, "--html", "s.html")
    page = (here / "s.html").read_text()
    assert page.count('class="gone"') == 6 and page.count("data:image/jpeg") == 1 + 3


def test_faiss_finds_the_same(held, predict, records):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (extra: faiss)")
    argv = ["similar", "clip", "photos/3.jpg", "--embeddings", "clip.parquet"]
    predict(*argv, "--json", "a.jsonl")
    predict(*argv, "--json", "b.jsonl", "--index", "faiss")
    assert records(held / "a.jsonl") == records(held / "b.jsonl")


def _cut(name):
    os.truncate(name, os.path.getsize(name) - 40)


def _other_dimension(name):
    vectors = np.load(name)
    np.save(name, vectors[:, :-1])


def _bare(name):
    pq.write_table(pa.table({"path": ["a"], "embedding": [[1.0]]}), name)


def _poor(name):
    path = Path(f"{name}.json")
    about = json.loads(path.read_text())
    del about["fingerprint"]
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("spoil", "argv", "told"),
    [
        (lambda: _cut("clip.npy"), "clip photos/0.jpg --embeddings clip.npy", "--embeddings: "
         "clip.npy cannot be read (it is cut off: 9 x 20 float32 are 848 bytes, and it has 808): "
         "embed its images again"),
        (lambda: _cut("clip.parquet"), "clip photos/0.jpg --embeddings clip.parquet",
         "--embeddings: clip.parquet cannot be read ("),
        (lambda: _bare("clip.parquet"), "clip photos/0.jpg --embeddings clip.parquet",
         "--embeddings: clip.parquet does not say which model made it: embed its images again"),
        (lambda: _poor("clip.npy"), "clip photos/0.jpg --embeddings clip.npy",
         "--embeddings: clip.npy does not say which model made it: embed its images again"),
        (lambda: _other_dimension("clip.npy"), "clip photos/0.jpg --embeddings clip.npy",
         "--embeddings: clip.npy holds 9 x 19 numbers, and what lies beside it is of 9 x 20"),
        (lambda: np.save("clip.npy", np.zeros((9, 20), int)), "clip photos/0.jpg --embeddings "
         "clip.npy", "clip.npy cannot be read (it is int64 (9, 20), and vectors are floats"),
        (lambda: Path("clip.npy").write_bytes(b""), "clip photos/0.jpg --embeddings clip.npy",
         "--embeddings: clip.npy cannot be read ("),
        (lambda: os.unlink("clip.npy.json"), "clip photos/0.jpg --embeddings clip.npy",
         "--embeddings: clip.npy.json is not there, without which clip.npy says nothing of its "
         "images: put it back, or embed them again"),
        (lambda: _cut("clip.npy.paths.txt"), "clip photos/0.jpg --embeddings clip.npy",
         "clip.npy cannot be read (clip.npy.paths.txt has 8 lines, and it 9 rows)"),
        (None, "dino photos/0.jpg --embeddings clip.npy", "--embeddings: clip.npy cannot be "
         "compared with what this MODEL makes: the model was "),
        (None, "clip photos/0.jpg --embeddings clip.npy --std 1,1,1", "cannot be compared with "
         "what this MODEL makes: --std was 0.268"),
        (None, "clip photos/0.jpg --embeddings none.npy", "--embeddings: none.npy is not there: "
         "embed makes it"),
        (None, "clip --embeddings clip.npy", "there is nothing to look for: name images as INPUT, "
         "or give --query"),
        (None, "dino --embeddings dino.npy --query cat", "is an image tower alone and reads no "
         "texts: look for images, or name a pair as MODEL"),
        (lambda: Path("void.txt").touch(), "clip --embeddings clip.npy --query void.txt",
         "--query: void.txt is empty; it needs a text a line"),
        (None, "clip photos/0.jpg --embeddings clip.npy --index hnsw", "--index = hnsw: wants "
         "exact, faiss, or faiss:FACTORY"),
        (None, "clip photos/0.jpg --embeddings clip.txt", '--embeddings = "clip.txt": wants a '
         "local file that ends in .npy or .parquet"),
        (lambda: Path("bad.jpg").write_bytes(b"x"), "clip bad.jpg --embeddings clip.npy",
         "bad.jpg cannot be used: the bytes are not an image of a known format"),
    ],
)  # fmt: skip
def test_wrong_embeddings_are_one_sentence(spoil, argv, told, held, predict):
    if spoil is not None:
        spoil()
    error = predict("similar", *argv.split(), code=2)
    assert told in error and len(error.splitlines()) == 1, error


def test_without_faiss_the_exact_search_is_named(held, predict, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    told = predict("similar", "clip", "photos/0.jpg", "--embeddings", "clip.npy",
                   "--index", "faiss:HNSW32", code=2)  # fmt: skip
    assert told.startswith('--index faiss takes faiss-cpu: pip install "big_vit_lite[faiss]"')
