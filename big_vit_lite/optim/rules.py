"""Numbers for parameters by rules over their paths: (pattern, value), the first match wins."""

import re
from collections.abc import Sequence

import jax
import numpy as np

from big_vit_lite import config
from big_vit_lite.parallel.rules import STACKED, path_name


def multipliers(params, rules: Sequence[tuple[str, float]], key: str = "rules"):
    """A tree of numbers like `params`: each leaf has the value of the first rule that matches.

    Patterns are searched in paths such as 'Transformer/encoderblock_0/LayerNorm_0/scale'. Scanned
    layers are looked up one by one under the same names: a leaf whose layers differ gets an array
    (depth, 1, ...) in place of a float. Rules must cover every parameter, and a rule that matches
    nothing is a spelling mistake until proven otherwise.

    Raises:
        InputError: names the parameter no rule covers, or the rule that matches no parameter.
    """
    unused = {pattern for pattern, _ in rules}

    def lookup(name: str) -> float:
        for pattern, number in rules:
            if re.search(pattern, name):
                unused.discard(pattern)
                return float(number)
        raise config.InputError(
            f"{key}: no rule matches parameter {name!r}; end the list with ('.*', value)."
        )

    def value(path, leaf):
        name = path_name(path)
        if not STACKED.search(name):
            return lookup(name)
        layers = [
            lookup(name.replace("encoderblock/", f"encoderblock_{i}/"))
            for i in range(leaf.shape[0])
        ]
        if len(set(layers)) == 1:
            return layers[0]
        return np.asarray(layers, np.float32).reshape(-1, *(1,) * (len(leaf.shape) - 1))

    tree = jax.tree.map_with_path(value, params)
    unused.discard(".*")
    if unused:
        raise config.InputError(
            f"{key}: rule {sorted(unused)[0]!r} matches no parameter; the run's parameter table "
            "lists their paths."
        )
    return tree
