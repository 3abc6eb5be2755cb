"""Sizes by name, and exact parameter counts."""

import jax
import numpy as np
import pytest

from big_vit_lite import config, models
from big_vit_lite.config import InputError


def count(model_config: config.Model, classes: int = 1000, side: int = 224) -> int:
    model = models.build_model(model_config, (side, side, 3), classes, "tpu")
    shapes = models.abstract_params(model)
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("Ti/16", 5_717_416),
        ("S/16", 22_050_664),
        ("B/16", 86_567_656),
        ("L/16", 304_326_632),
        ("H/14", 632_045_800),
    ],
)
def test_counts_with_a_class_row_are_the_published_ones(variant, parameters):
    assert count(config.Model(variant=variant)) == parameters


def test_count_with_100_classes():
    assert count(config.Model(variant="S/16"), classes=100) == 21_704_164


@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        ("mu/16", 0.08),
        ("Ti/16", 5.72),
        ("S/16", 22.05),
        ("S/32", 22.88),
        ("M/16", 38.84),
        ("B/32", 88.22),
        ("B/16", 86.57),
        ("L/16", 304.32),
        ("So400m/14", 413.6),
        ("H/14", 632.04),
        ("g/14", 1012.6),
        ("g-opt/16", 1136.3),
        ("G/14", 1844.4),
        ("G-opt/16", None),
        ("e/14", 3807.2),
    ],
)
def test_counts_with_a_row_a_patch(variant, millions):
    """Mean pooling, N rows: big_vision's table, and a formula that knows nothing of the code."""
    parameters = count(config.Model(variant=variant, pool="gap"))
    d, depth, mlp, _ = models.SIZES[variant.split("/")[0]]
    p = int(variant.split("/")[1])
    linear = lambda n, m: n * m + m  # noqa: E731
    block = 4 * linear(d, d) + linear(d, mlp) + linear(mlp, d) + 2 * 2 * d
    rows = (224 // p) ** 2
    assert parameters == (linear(3 * p * p, d) + rows * d + depth * block + 2 * d + linear(d, 1000))
    if millions is not None:
        digits = len(str(millions).partition(".")[2])
        assert round(parameters / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({}, 197),
        ({"class_position": False}, 196),
        ({"class_token": True, "pool": "gap"}, 197),
        ({"pool": "gap"}, 196),
        ({"pool": "map"}, 196),
        ({"registers": 4}, 197),
        ({"patch_stride": 8}, 27 * 27 + 1),
        ({"position_grid": (7, 9)}, 64),
    ],
    ids=str,
)
def test_rows_of_the_position_table(change, rows):
    model = models.build_model(config.Model(variant="mu/16", **change), (224, 224, 3), 10, "cpu")
    shapes = models.abstract_params(model)
    assert shapes["pos_embedding"].shape == (1, rows, 32)


def test_variants_are_read():
    assert models.parse_variant("Ti/8") == (models.SIZES["Ti"], (8, 8), None)
    assert models.parse_variant("L/14") == ((1024, 24, 4096, 16), (14, 14), None)
    assert models.parse_variant("B/16x8") == (models.SIZES["B"], (16, 8), None)
    assert models.parse_variant("g-opt/16").size.width == 1536
    assert models.parse_variant("g/14").size != models.parse_variant("G/14").size


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("b/16", "B/16"),
        ("B16", "B/16"),
        ("B/016", "B/16"),
        ("TI/8", "Ti/8"),
        ("so400/14", "So400m/14"),
        ("G_opt/14", "G-opt/14"),
        ("L/", "L/16"),
        ("B/16x", "B/16"),
        ("B/16x0", "B/16"),
    ],
)
def test_a_wrong_variant_names_the_nearest(wrong, nearest):
    with pytest.raises(InputError, match=f"{wrong!r} is not SIZE/PATCH; did you mean {nearest!r}"):
        models.parse_variant(wrong)
