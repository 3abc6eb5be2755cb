"""Numbers for parameters by rules over their paths: (pattern, value), the first match wins."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite import config
from big_vit_lite.parallel.rules import SIDE_BY_SIDE, STACKED, path_name


def locked(factors) -> Any:
    """Which leaves of `multipliers` never move: True where all factors of a parameter are 0.

    The layers of a stack count as one parameter, scanned or not: states have one form for both.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(factors)
    names = [SIDE_BY_SIDE.sub(r"\1encoderblock/", path_name(path)) for path, _ in paths]
    moving = {name for name, (_, f) in zip(names, paths, strict=True) if np.any(np.asarray(f) != 0)}
    return jax.tree.unflatten(structure, [name not in moving for name in names])


_STATISTIC = re.compile(r"/(mean|var)$")


def statistics(params) -> Any:
    """Which leaves are running statistics of batch norms: True for these. They have no gradient,
    are set by the step, and must not decay."""
    return jax.tree.map_with_path(
        lambda path, _: _STATISTIC.search(path_name(path)) is not None, params
    )


def lock(params, factors) -> Any:
    """The same parameters, without gradient where a factor is 0."""

    def stop(p, factor):
        moves = np.asarray(factor) != 0
        if moves.all():
            return p
        stopped = jax.lax.stop_gradient(p)
        return jnp.where(moves, p, stopped) if moves.any() else stopped

    return jax.tree.map(stop, params, factors)


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
