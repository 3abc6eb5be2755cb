"""The exact search: the order of the whole float64 matrix, whatever the blocks; and FAISS."""

import sys
import tracemalloc

import numpy as np
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.predict import faiss_index, search


class Held:
    """Vectors in memory, in the place of a file."""

    def __init__(self, vectors):
        self._vectors, self.shapes = vectors, []
        self.rows, self.dimension = vectors.shape

    def blocks(self, size):
        for start in range(0, self.rows, size):
            self.shapes.append(min(size, self.rows - start))
            yield start, self._vectors[start : start + size].astype(np.float32)

    def take(self, rows):
        return self._vectors[rows]


def unit(shape, seed):
    made = np.random.default_rng(seed).normal(size=shape)
    return (made / np.linalg.norm(made, axis=-1, keepdims=True)).astype(np.float32)


def whole(queries, vectors, k):
    """By the whole matrix in float64, equal ones by their number."""
    scores = np.stack([(vectors.astype(np.float64) * q).sum(1) for q in queries.astype(np.float64)])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def near(count, seed=1):
    """Vectors around one another, nearer than float32 products can tell apart, some of them twice;
    and queries there."""
    centre = unit((1, 48), seed)
    noise = np.random.default_rng(seed).normal(size=(count, 48)) * 3e-5
    vectors = centre + noise
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[count // 3 : count // 3 + 40] = vectors[7]
    vectors[count // 2 :: 9] = vectors[11]
    return vectors, np.concatenate([centre, vectors[7:8], unit((3, 48), 5)])


@pytest.mark.parametrize("blocks", [(64, 2), (500, 5), (300, 100)])
@pytest.mark.parametrize("kind", ["near", "far"])
def test_the_order_is_that_of_the_whole_matrix(kind, blocks):
    vectors, queries = near(500) if kind == "near" else (unit((500, 48), 2), unit((5, 48), 3))
    order, scores = whole(queries, vectors, 30)
    rows, found = search.nearest(queries, Held(vectors), 30, *blocks)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(found, scores, rtol=0, atol=1e-15)
    if kind == "near":  # the products of float32 are in another order
        single = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :30]
        assert (single != order).mean() > 0.1


def test_half_precision_and_fewer_vectors_than_asked_for():
    vectors = unit((20, 48), 2).astype(np.float16)
    order, _ = whole(unit((2, 48), 3), vectors, 20)
    rows, _ = search.nearest(unit((2, 48), 3), Held(vectors), 50, 8)
    np.testing.assert_array_equal(rows, order)


def test_there_is_never_a_whole_matrix():
    """300 queries against 40,000 vectors: their scores would be 96 MB in float64."""
    vectors, queries = unit((40_000, 16), 2), unit((300, 16), 3)
    held, done = Held(vectors), []
    tracemalloc.start()
    rows, _ = search.nearest(queries, held, 3, 2048, 64, progress=done.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held.shapes == [2048] * 19 + [1088] and done[-1] == 40_000
    assert peak < 20e6, peak
    few = slice(0, 8)
    np.testing.assert_array_equal(rows[few], whole(queries[few], vectors, 3)[0])


# FAISS.


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="faiss-cpu is not installed (extra: faiss)")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"one")
    return path


def test_a_flat_index_of_faiss_is_the_exact_search(faiss, file):
    vectors, queries = unit((500, 48), 2), unit((5, 48), 3)
    order, scores = whole(queries, vectors, 9)
    rows, found = faiss_index.nearest(queries, file, Held(vectors), 9, "Flat")
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(found, scores, rtol=0, atol=1e-15)
    assert [path.name for path in file.parent.glob("a*")] == ["a.npy"]


def test_an_approximate_index_is_kept_and_belongs_to_its_vectors(faiss, file, monkeypatch):
    vectors, queries = unit((600, 48), 2), unit((40, 48), 3)
    order, _ = whole(queries, vectors, 5)
    rows, scores = faiss_index.nearest(queries, file, Held(vectors), 5, "HNSW16")
    assert (rows[..., None] == order[:, None]).any(2).mean() > 0.8
    assert (np.diff(scores, axis=1) <= 0).all()
    [kept] = file.parent.glob("a.npy.*.faiss")
    with monkeypatch.context() as patch:
        patch.setattr(Held, "blocks", None)  # it is not built again
        again, _ = faiss_index.nearest(queries, file, Held(vectors), 5, "HNSW16")
    np.testing.assert_array_equal(again, rows)
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(
        faiss_index.nearest(queries, file, Held(vectors), 5, "HNSW16")[0], rows
    )
    file.write_bytes(b"another")
    other = Held(unit((600, 48), 9))
    changed, _ = faiss_index.nearest(queries, file, other, 5, "HNSW16")
    assert (changed != rows).mean() > 0.5


def test_an_index_with_cells_learns_them_and_may_find_fewer(faiss, file):
    vectors, queries = unit((600, 48), 2), unit((5, 48), 3)
    rows, scores = faiss_index.nearest(queries, file, Held(vectors), 200, "IVF8,Flat")
    assert (rows == -1).any() and (scores[rows == -1] == -np.inf).all()
    found = rows[0][rows[0] >= 0]
    wanted = (vectors[found].astype(np.float64) * queries[0]).sum(1)
    np.testing.assert_allclose(scores[0][: len(found)], wanted, rtol=0, atol=1e-15)


def test_what_faiss_does_not_know_is_told_of(faiss, file):
    with pytest.raises(InputError, match="faiss makes no index of 'Flatt' for 48 numbers: give"):
        faiss_index.nearest(unit((1, 48), 0), file, Held(unit((9, 48), 1)), 2, "Flatt")
    with pytest.raises(InputError, match="--index = flat: wants exact, faiss, or faiss:FACTORY"):
        faiss_index.factory_of("flat")
    assert faiss_index.factory_of("exact") is None and faiss_index.factory_of("faiss") == "Flat"


def test_without_faiss_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r'pip install "big_vit_lite\[faiss\]"; the exact search'):
        faiss_index.library()
