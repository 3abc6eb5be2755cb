"""Position tables against torch, scipy and the published formulas."""

import pathlib

import numpy as np
import pytest

from big_vit_lite.models.layers import positions

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "positions.npz"
RULES = ("cubic", "cubic_torch", "bilinear", "align_corners")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return dict(file)


def resampled(table: np.ndarray, new: tuple[int, int], rule: str, offset: float = 0.0):
    flat = table.reshape(-1, table.shape[-1])
    out = positions.resample(flat, table.shape[:2], new, rule, offset)
    return np.asarray(out).reshape(*new, -1)


@pytest.mark.parametrize("case", ["up", "down", "oblong"])
@pytest.mark.parametrize(
    "recorded", ["cubic", "cubic_torch", "bilinear", "cubic+0.1", "cubic_torch+0.1"]
)
def test_equal_to_torch_and_to_no_other_rule(golden, case, recorded):
    table, reference = golden[f"{case}/table"], golden[f"{case}/{recorded}"]
    name, _, offset = recorded.partition("+")
    scale = np.abs(reference).max()
    for rule in RULES:
        for step_offset in (0.0, 0.1) if rule != "align_corners" else (0.0,):
            ours = resampled(table, reference.shape[:2], rule, step_offset)
            difference = np.abs(ours - reference).max() / scale
            if (rule, step_offset) == (name, float(offset or 0)):
                assert difference < 1e-5
            else:
                assert difference > 1e-2, (rule, step_offset)


@pytest.mark.parametrize("case", ["up", "down", "oblong"])
def test_cubic_is_jax_image_resize(golden, case):
    import jax

    table = golden[f"{case}/table"]
    new = golden[f"{case}/cubic"].shape
    reference = jax.image.resize(table, new, "cubic")
    np.testing.assert_allclose(resampled(table, new[:2], "cubic"), reference, atol=1e-5)


@pytest.mark.parametrize("case", ["up", "down", "oblong"])
def test_align_corners_is_scipy_zoom(golden, case):
    ndimage = pytest.importorskip("scipy.ndimage")
    table = golden[f"{case}/table"]
    new = golden[f"{case}/cubic"].shape[:2]
    zoom = (*(n / m for m, n in zip(table.shape[:2], new, strict=True)), 1)
    reference = ndimage.zoom(table, zoom, order=1)
    np.testing.assert_allclose(resampled(table, new, "align_corners"), reference, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("old", "new"), [(7, 3), (3, 8), (1, 4), (4, 1), (37, 16)])
def test_weights_sum_to_one(rule, old, new):
    weights = positions.resample_matrix(old, new, rule)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


def test_the_offset_matters_as_much_as_published():
    """DINOv2's 37 x 37 table on 16 x 16: without its 0.1, unit-variance entries move by about 1."""
    table = np.random.default_rng(0).standard_normal((37, 37, 8)).astype(np.float32)
    plain = resampled(table, (16, 16), "cubic_torch")
    assert 0.5 < np.abs(resampled(table, (16, 16), "cubic_torch", 0.1) - plain).max() < 2


def test_the_same_grid_is_untouched():
    table = np.ones((12, 4), np.float32)
    assert positions.resample(table, (3, 4), (3, 4), "cubic", 0.1) is table


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="'nearest' is not a rule"):
        positions.resample_matrix(3, 4, "nearest")


@pytest.mark.parametrize(
    ("kind", "last"), [("sincos2d", 3), ("sincos2d_mae", 4)], ids=["moco_v3", "mae"]
)
def test_sinusoids(kind, last):
    """Row 2, column 3 of a 4 x 5 grid, width 16, by hand: columns first."""
    table = positions.SINUSOIDS[kind]((4, 5), 16)
    assert table.shape == (20, 16)
    frequencies = [10000 ** (-k / last) for k in range(4)]
    expected = [f(p * w) for p in (3, 2) for f in (np.sin, np.cos) for w in frequencies]
    np.testing.assert_allclose(table[2 * 5 + 3], expected, rtol=1e-6, atol=1e-7)
