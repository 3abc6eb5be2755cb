"""Numbers for parameters by rules over their paths: (pattern, value), the first match wins."""

import re
from collections.abc import Sequence

import jax

from big_vit_lite import config
from big_vit_lite.parallel.rules import path_name


def multipliers(params, rules: Sequence[tuple[str, float]], key: str = "rules"):
    """A tree of floats like `params`: each leaf has the value of the first rule that matches.

    Patterns are searched in paths such as 'Transformer/encoderblock_0/LayerNorm_0/scale'; those of
    scanned layers read the same, with no number. Rules must cover every parameter, and a rule that
    matches nothing is a spelling mistake until proven otherwise.

    Raises:
        InputError: names the parameter no rule covers, or the rule that matches no parameter.
    """
    unused = {pattern for pattern, _ in rules}

    def value(path, _):
        name = path_name(path)
        for pattern, number in rules:
            if re.search(pattern, name):
                unused.discard(pattern)
                return float(number)
        raise config.InputError(
            f"{key}: no rule matches parameter {name!r}; end the list with ('.*', value)."
        )

    tree = jax.tree.map_with_path(value, params)
    unused.discard(".*")
    if unused:
        raise config.InputError(
            f"{key}: rule {sorted(unused)[0]!r} matches no parameter; the run's parameter table "
            "lists their paths."
        )
    return tree
