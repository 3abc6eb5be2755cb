"""Weights of a golden, under their published names, read by the tables of big_vit_lite.weights."""

import numpy as np

from big_vit_lite.weights import Sections, rules
from big_vit_lite.weights.layouts import find
from big_vit_lite.weights.loading import nested


def tree(arrays: dict[str, np.ndarray], layout: str, sections: Sections, **form) -> dict:
    """Our parameters from the arrays file/NAME; every name must have its place."""
    chosen = find(layout)
    return read(arrays, chosen.rules(sections, form), chosen.carries)


def read(arrays: dict[str, np.ndarray], table: list[rules.Rule], carries=lambda name: False):
    held = {k.removeprefix("file/"): x for k, x in arrays.items() if k.startswith("file/")}
    held = {k: x for k, x in held.items() if not carries(k)}
    leaves, unknown = rules.read(table, held)
    assert not unknown
    return nested(leaves)
