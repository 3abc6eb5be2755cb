"""The table of parameters that a run prints at its start: one line a kind, not one a layer."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from big_vit_lite.parallel import path_name

_LAYER = re.compile(r"(?<=encoderblock_)\d+")
_HEADINGS = ("parameter", "shape", "dtype", "size", "lr", "decay", "sharding", "bytes/device")
_LEFT = {0, 1, 2, 6}


class _Line(NamedTuple):
    cells: tuple[str, ...]  # shape, dtype, lr, decay, sharding
    size: int
    bytes: int


def parameter_table(params: Any, lr: Any = None, decay: Any = None) -> str:
    """Path, shape, dtype, size, lr factor, decay factor, sharding and bytes a device, with totals.

    Layers whose rows are equal share one: its size and bytes are those of all of them.

    Args:
        params: arrays or ShapeDtypeStructs; without a sharding a leaf counts as whole.
        lr: factors of the learning rate, a tree like `params`, or one number.
        decay: factors of weight decay, likewise.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    columns = [_spread(values, structure) for values in (lr, decay)]
    groups: dict[tuple, list[tuple[str, _Line]]] = {}
    for (path, leaf), *factors in zip(paths, *columns, strict=True):
        name = path_name(path)
        line = _line(leaf, factors)
        groups.setdefault((_LAYER.sub("*", name), line), []).append((name, line))
    rows = [_HEADINGS]
    for (pattern, line), members in groups.items():
        shape, dtype, rate, decayed, spec = line.cells
        numbers = [int(n) for name, _ in members for n in _LAYER.findall(name)]
        name = pattern.replace("*", ranges(numbers))
        size, held = line.size * len(members), line.bytes * len(members)
        rows.append((name, shape, dtype, f"{size:,}", rate, decayed, spec, f"{held:,}"))
    lines = [line for members in groups.values() for _, line in members]
    size, held = sum(line.size for line in lines), sum(line.bytes for line in lines)
    rows.append((f"total: {len(lines)} arrays", "", "", f"{size:,}", "", "", "", f"{held:,}"))
    return _aligned(rows)


def ranges(numbers: Iterable[int]) -> str:
    """Layer numbers in short: 3 is "3"; 0, 1, 2, 5 are "{0..2,5}"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    text = ",".join("..".join(map(str, run)) for run in runs)
    return text if text.isdecimal() else f"{{{text}}}"


def _line(leaf: Any, factors: Sequence[float | None]) -> _Line:
    sharding = getattr(leaf, "sharding", None)
    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
    spec = "whole"
    local = shape
    if sharding is not None:
        local = sharding.shard_shape(shape)
        if isinstance(sharding, NamedSharding) and local != shape:
            spec = ", ".join(_axis(axis) for axis in sharding.spec)
    shown = "x".join(map(str, shape)) or "scalar"
    numbers = ("" if factor is None else f"{factor:g}" for factor in factors)
    held = math.prod(local) * dtype.itemsize
    return _Line((shown, dtype.name, *numbers, spec), math.prod(shape), held)


def _axis(axis: None | str | tuple[str, ...]) -> str:
    return "-" if axis is None else axis if isinstance(axis, str) else "+".join(axis)


def _spread(values: Any, structure) -> list[float | None]:
    """One value a leaf, from a tree like the parameters or from one number."""
    if values is None or isinstance(values, int | float):
        return [values] * structure.num_leaves
    return structure.flatten_up_to(values)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    lines = [
        "  ".join(
            row[i].ljust(widths[i]) if i in _LEFT else row[i].rjust(widths[i]) for i in used
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
