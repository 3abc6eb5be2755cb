"""Starting from a checkpoint of another model: parts renamed, left out, or resized, by rules."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from big_vit_lite.checkpoint import arrays, meta, reading, tree
from big_vit_lite.config import InputError
from big_vit_lite.storage import Place

SKIP = "skip"
Shape = tuple[int, ...]
# (name, shape stored, shape wanted, meta) -> the function between them, None: there is none
Resize = Callable[[str, Shape, Shape, Mapping[str, Any]], Callable[[jax.Array], jax.Array] | None]


class Transferred(NamedTuple):
    """What a checkpoint gave to another model.

    Attributes:
        leaves: arrays by the model's names, in the shardings asked for.
        sources: {the model's name: the checkpoint's}, of each of them.
        fresh: the model's names that a rule left to their initial values.
        unused: the checkpoint's names that a rule left out.
        resized: {name: (shape stored, shape now)}.
        meta: what the checkpoint says.
    """

    leaves: dict[str, jax.Array]
    sources: dict[str, str]
    fresh: list[str]
    unused: list[str]
    resized: dict[str, tuple[Shape, Shape]]
    meta: dict[str, Any]

    def describe(self) -> str:
        """One line for a person."""
        parts = [f"{len(self.leaves)} arrays of the checkpoint"]
        for title, names in (("initial values", self.fresh), ("left out", self.unused)):
            if names:
                parts.append(f"{title}: {', '.join(tree.grouped(names))}")
        parts += [f"{name} resized from {a} to {b}" for name, (a, b) in self.resized.items()]
        return "; ".join(parts)

    def by_leaf(self) -> str:
        """A line for each array: the model's, in its order, then what was left out."""
        found = {name: f"from {source}" for name, source in self.sources.items()}
        for name, (there, here) in self.resized.items():
            found[name] += f", resized from {there} to {here}"
        found |= dict.fromkeys(self.fresh, "initial values")
        lines = [f"{name}: {what}" for name, what in sorted(found.items())]
        lines += [f"(left out) {name}" for name in sorted(self.unused)]
        return "".join(f"{line}\n" for line in lines)


def transfer_params(
    path: str | Place,
    abstract_params: Any,
    rules: Sequence[tuple[str, str]] = (),
    resize: Resize = lambda *_: None,
) -> Transferred:
    """The parameters of a checkpoint, as far as rules bring them to a model's names and shapes.

    Args:
        path: as for `find`.
        abstract_params: ShapeDtypeStructs with shardings, unrolled over depth.
        rules: (regular expression, replacement) pairs over the checkpoint's names; the first whose
            expression is found makes the model's name by `re.sub`. "skip" as replacement leaves
            such names out, on both sides: the model's keep their initial values.
        resize: how an array of one shape becomes another, for those that can.

    Raises:
        InputError: if there is no checkpoint, it is damaged, a rule fits nothing or makes two names
            one, or after all rules something is missing or left over, listing it both ways.
    """
    directory = reading.find(path)
    reading.verify(directory)
    said = meta.read(directory)
    where = _called(directory)
    wanted = tree.flatten(abstract_params)
    stored = tree.part(meta.arrays(said), "params")
    sources, fresh, unused, changes = _fitted(stored, wanted, rules, resize, where, said)
    leaves = _load(directory, sources, stored, wanted, changes)
    resized = {k: (stored[sources[k]][1], wanted[k].shape) for k in changes}
    return Transferred(leaves, sources, fresh, unused, resized, said)


def check_params(
    path: str | Place,
    abstract_params: Any,
    rules: Sequence[tuple[str, str]] = (),
    resize: Resize = lambda *_: None,
) -> None:
    """Raises what `transfer_params` does of names and shapes; no array is read."""
    directory = reading.find(path)
    said = reading.read_meta(directory)
    stored = tree.part(meta.arrays(said), "params")
    _fitted(stored, tree.flatten(abstract_params), rules, resize, _called(directory), said)


def transfer_arrays(
    arrays_by_name: Mapping[str, np.ndarray],
    abstract_params: Any,
    rules: Sequence[tuple[str, str]] = (),
    resize: Resize = lambda *_: None,
    where: str = "the weights",
    said: Mapping[str, Any] | None = None,
) -> Transferred:
    """The same of arrays in memory, by names such as "Transformer/encoderblock_0/...".

    Args:
        where: what errors call them.
        said: what is known of them, for `resize`.

    Raises:
        InputError: as `transfer_params` about rules and misfits.
    """
    wanted, said = tree.flatten(abstract_params), dict(said or {})
    stored = tree.listing(arrays_by_name)
    sources, fresh, unused, changes = _fitted(stored, wanted, rules, resize, where, said)
    leaves = {}
    for name, source in sources.items():
        value, sharding = arrays_by_name[source], getattr(wanted[name], "sharding", None)
        value = np.asarray(changes[name](value)) if name in changes else value
        leaves[name] = jax.device_put(value, sharding)
    resized = {k: (stored[sources[k]][1], wanted[k].shape) for k in changes}
    return Transferred(leaves, sources, fresh, unused, resized, said)


def check_arrays(
    arrays_by_name: Mapping[str, np.ndarray],
    abstract_params: Any,
    rules: Sequence[tuple[str, str]] = (),
    resize: Resize = lambda *_: None,
    where: str = "the weights",
    said: Mapping[str, Any] | None = None,
) -> None:
    """Raises what `transfer_arrays` does; nothing is resized or put on a device."""
    stored = tree.listing(arrays_by_name)
    _fitted(stored, tree.flatten(abstract_params), rules, resize, where, dict(said or {}))


def _called(directory: Place) -> str:
    return f"checkpoint {directory} (params)"


def _fitted(stored: tree.Listing, wanted, rules, resize: Resize, where: str, said):
    """({model's name: name there}, names left fresh, names left out, {name: change}).

    Raises:
        Misfit: names and shapes that do not fit after all rules; InputError: rules that fit nothing
            or make two names one.
    """
    sources, unused, idle = _renamed(stored, rules, where)
    fresh = [name for name in wanted if _is_left_out(name, rules, idle) and name not in sources]
    if idle:
        raise InputError(
            f'init_rules: "{min(idle)}" is found in no name of {where}; it has '
            f"{', '.join(list(stored)[:3])} ..."
        )
    changes = {}
    for name, source in sources.items():
        # A position table of as many rows may still be of another grid.
        other = name in wanted and stored[source][1] != wanted[name].shape
        if other or (name in wanted and name.endswith("pos_embedding")):
            change = resize(name, stored[source][1], wanted[name].shape, said)
            if change is not None:
                changes[name] = change
    listing = tree.listing({k: leaf for k, leaf in wanted.items() if k not in fresh})
    given = {k: listing[k] if k in changes else stored[source] for k, source in sources.items()}
    try:
        tree.check_fits(given, listing, where)
    except tree.Misfit as error:
        raise tree.Misfit(
            f"{error}\n  init_rules can rename parts of the checkpoint, as in "
            '("^img/(.*)", "\\\\1"), and leave parts out, as in ("^head/", "skip")'
        ) from None
    return sources, fresh, unused, changes


def _renamed(
    stored: tree.Listing, rules: Sequence[tuple[str, str]], where: str
) -> tuple[dict[str, str], list[str], set[str]]:
    """({model's name: checkpoint's name}, names left out, rules that were found nowhere)."""
    sources: dict[str, str] = {}
    unused, idle = [], {pattern for pattern, _ in rules}
    for source in stored:
        name = source
        for pattern, replacement in rules:
            if re.search(pattern, source):
                idle.discard(pattern)
                name = None if replacement == SKIP else re.sub(pattern, replacement, source)
                break
        if name is None:
            unused.append(source)
        elif name in sources:
            raise InputError(
                f"init_rules make two arrays of {where} one: {sources[name]} and {source} would "
                f"both be {name}"
            )
        else:
            sources[name] = source
    return sources, unused, idle


def _is_left_out(name: str, rules: Sequence[tuple[str, str]], idle: set[str]) -> bool:
    """Whether a rule leaves the model's name to its initial values; takes that rule off `idle`."""
    for pattern, replacement in rules:
        if replacement == SKIP and re.search(pattern, name):
            idle.discard(pattern)
            return True
    return False


def _load(directory: Place, sources, stored, wanted, changes) -> dict[str, jax.Array]:
    """Reads what is used, each array in its final sharding, but for those still to be resized."""
    specs = {}
    for name, source in sources.items():
        leaf = wanted[name]
        if name in changes:  # small: position tables
            leaf = jax.ShapeDtypeStruct(stored[source][1], leaf.dtype, sharding=_whole(leaf))
        specs[f"params/{source}"] = leaf
    loaded = arrays.load(directory, specs)
    leaves = {name: loaded[f"params/{source}"] for name, source in sources.items()}
    for name, change in changes.items():
        sharding = getattr(wanted[name], "sharding", None)
        leaves[name] = jax.jit(change, out_shardings=sharding)(leaves[name])
    return leaves


def _whole(leaf) -> jax.sharding.Sharding | None:
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding
