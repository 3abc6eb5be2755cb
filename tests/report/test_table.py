"""The parameter table: equal layers on one line, totals, bytes a device."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vit_lite.report import parameter_table
from big_vit_lite.report.table import ranges


def leaf(*shape, spec=None, dtype=jnp.float32):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P(*spec)) if spec else None
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def cells(table):
    return [line.split() for line in table.splitlines()]


def test_layers_of_equal_rows_share_a_line():
    blocks = {
        f"encoderblock_{i}": {"kernel": leaf(8, 16, spec=(None, "fsdp")), "scale": leaf(8)}
        for i in range(12)
    }
    params = {"Transformer": blocks, "head": {"kernel": leaf(8, 10, dtype=jnp.bfloat16)}}
    lr = jax.tree.map(lambda _: 1.0, params)
    lr["Transformer"]["encoderblock_3"]["scale"] = 0.5
    decay = jax.tree.map(lambda x: float(len(x.shape) > 1), params)
    assert cells(parameter_table(params, lr, decay))[2:] == [
        ["Transformer/encoderblock_{0..11}/kernel", "8x16", "float32", "1,536", "1", "1", "-,",
         "fsdp", "1,536"],
        ["Transformer/encoderblock_{0..2,4..11}/scale", "8", "float32", "88", "1", "0", "whole",
         "352"],
        ["Transformer/encoderblock_3/scale", "8", "float32", "8", "0.5", "0", "whole", "32"],
        ["head/kernel", "8x10", "bfloat16", "80", "1", "1", "whole", "160"],
        ["-" * len(parameter_table(params, lr, decay).splitlines()[1])],
        ["total:", "25", "arrays", "1,712", "2,080"],
    ]  # fmt: skip


def test_columns_line_up_and_empty_ones_are_left_out():
    table = parameter_table({"a": leaf(2, 3), "long/name": leaf(), "c": leaf(4)}, decay=1.0)
    lines = table.splitlines()
    assert lines[0].split() == [
        "parameter", "shape", "dtype", "size", "decay", "sharding", "bytes/device",
    ]  # fmt: skip
    assert len({len(line) for line in (lines[0], lines[1], lines[2], lines[-1])}) == 1
    assert "scalar" in lines[4]


def test_scanned_layers_are_one_leaf():
    table = parameter_table({"Transformer": {"encoderblock": {"kernel": leaf(12, 8, 8)}}})
    assert cells(table)[2][:2] == ["Transformer/encoderblock/kernel", "12x8x8"]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], "{}"), ([3], "3"), ([1, 0], "{0..1}"), ([0, 1, 2, 5, 7, 8], "{0..2,5,7..8}")],
)
def test_ranges(numbers, text):
    assert ranges(numbers) == text
