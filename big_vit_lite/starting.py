"""Where a run starts from: a checkpoint or published weights, checked first, fitted by rules."""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_vit_lite import agreement, assembly, checkpoint, config, models, parallel, weights
from big_vit_lite.assembly import Parts
from big_vit_lite.models.layers import positions


class Start(NamedTuple):
    """Parameters to start from, and where they are from.

    Attributes:
        told: one line for a person.
        by_leaf: a line for each array.
    """

    params: Any
    told: str
    by_leaf: str


def init_params(parts: Parts, abstract: Any) -> Start:
    """What `run.init` gives, a checkpoint or published weights, as `run.init_rules` fit it to the
    model, and initial values for what the rules leave out.

    Args:
        abstract: shapes and shardings of the parameters.

    Raises:
        InputError: see checkpoint.transfer_params and weights.load.
    """
    stored = assembly.stored_form(parts, abstract)
    found, told = read_init(parts, stored)
    leaves = found.leaves | initial_values(parts, stored, found.fresh)
    params = jax.tree.map_with_path(lambda path, _: leaves[parallel.path_name(path)], stored)
    told = f"started from {parts.run.init}: {told}{found.describe()}"
    return Start(assembly.from_stored(parts, params), told, found.by_leaf())


def initial_values(parts: Parts, stored: Any, names: Collection[str]) -> dict[str, jax.Array]:
    """Parameters by path, as the run's seed draws them; no others are drawn.

    Args:
        stored: shapes and shardings of all parameters, in the form of checkpoints.
    """
    if not names:
        return {}
    wanted = {parallel.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(stored)}

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        drawn = models.unstack_layers(parts.task.init(key))
        leaves = {parallel.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(drawn)}
        return {name: leaves[name] for name in names}

    shardings = {name: wanted[name].sharding for name in names}
    return jax.jit(draw, out_shardings=shardings)(jax.random.key(parts.run.seed))


def read_init(parts: Parts, abstract: Any) -> tuple[checkpoint.Transferred, str]:
    """What `run.init` gives to the model, in the form of checkpoints, and a line about it.

    Raises:
        InputError: as `init_params`.
    """
    run, change = parts.run, functools.partial(resize_leaf, parts.model)
    if weights.locate(run.init) is not None:
        return weights.start_from(run, abstract, change)
    found = checkpoint.transfer_params(run.init, abstract, run.init_rules, change)
    return found, _reading(run, config.Run.from_json(found.meta["config"], f"init {run.init}"))


def _reading(run: config.Run, trained: config.Run) -> str:
    """Whether pixels and texts are read as in the run that is started from."""
    told = weights.normalisation(run.data, trained.data)
    if run.text is None or trained.text is None:
        return told
    ours, theirs = run.data.train.text, trained.data.train.text
    return told + ("texts read as theirs; " if ours == theirs else f"whose texts were {theirs!r}; ")


def check_init(run: config.Run, task: Any = None) -> None:
    """Raises InputError where `run.init` holds nothing to start from, or parameters that would
    compute something else in this run.

    Args:
        task: the run's, whose vocabulary a text tower must share; None: that is not looked at.
    """
    if weights.locate(run.init) is not None:
        weights.check_start(run)
        return
    if run.init_layout or run.init_known:
        raise config.InputError(
            f"init {run.init} holds no published weights, for which init_layout and init_known "
            "are: leave them out"
        )
    path = checkpoint.find(run.init)
    meta = checkpoint.read_meta(path)
    trained = config.Run.from_json(meta["config"], f"{path}/meta.json")
    names = [name.removeprefix("params/") for name in meta["arrays"] if name.startswith("params/")]
    weights.check_agreement(run, path, trained.model, trained.text, names)
    if task is not None and run.text is not None and weights.takes(run, names, "txt/"):
        agreement.check_vocabulary(task, meta, f"init: {path}")
        agreement.check_marks(task, meta, f"init: {path}")


def check_init_fits(parts: Parts) -> None:
    """Raises InputError where the parameters at `run.init`, after `run.init_rules`, are not those
    of the model, with the fields of the config that differ; for before anything is compiled."""
    run, change = parts.run, functools.partial(resize_leaf, parts.model)
    stored = assembly.stored_form(parts, assembly.abstract_params(parts))
    if weights.locate(run.init) is not None:
        weights.check_start_fits(run, stored, change)
        return
    trained = config.Run.from_json(checkpoint.read_meta(run.init)["config"], f"init {run.init}")
    with weights.naming_fields(run, trained):
        checkpoint.check_params(run.init, stored, run.init_rules, change)


def image_leaves(parts: Parts, params: Any) -> dict[str, jax.Array]:
    """The image tower of a pair by path, in the form of checkpoints."""
    leaves = jax.tree_util.tree_leaves_with_path(assembly.to_stored(parts, params)["img"])
    return {parallel.path_name(path): x for path, x in leaves}


def resize_leaf(
    model, name: str, old: tuple[int, ...], new: tuple[int, ...], meta: dict
) -> Callable[[jax.Array], jax.Array] | None:
    """How an array of another size becomes this model's: position tables and patch kernels can."""
    found = resize_positions(model, name, old, new, meta)
    return weights.patch_resize(name, old, new) if found is None else found


def resize_positions(
    model, name: str, old: tuple[int, ...], new: tuple[int, ...], meta: dict
) -> Callable[[jax.Array], jax.Array] | None:
    """How a learned position table of another grid becomes this model's, by the model's own rule.

    The grid is what the checkpoint says, or the square that its rows make. First rows, for the
    class and distillation tokens, are kept, or left out where the model has none.
    """
    tower = models.image_tower(model)
    grid = getattr(tower, "position_grid", None)
    if not name.endswith("pos_embedding") or name.startswith("txt/") or grid is None:
        return None
    if len(old) != 3 or old[-1] != new[-1]:
        return None
    first = new[1] - grid[0] * grid[1]
    side = math.isqrt(old[1])
    stored = tuple(meta.get("position_grid") or (side, side))
    old_first = old[1] - stored[0] * stored[1]
    if old_first not in (0, 1, 2) or first > old_first:
        return None
    if stored == tuple(grid) and first == old_first:
        return None

    def resize(table: jax.Array) -> jax.Array:
        rows = positions.resample(
            table[0, old_first:], stored, grid, tower.position_resample, tower.position_offset
        )
        return jnp.concatenate([table[0, :first], rows])[None]

    return resize
