"""A training state as a flat {name: array}, the form in which it is stored.

Names are paths joined by slashes ("opt_state/1/0/mu/head/kernel"), so tuples, named tuples, None
and empty states need no counterpart on disk: the abstract tree that a state is read against has
them. It also makes reading a part, and saying what does not fit, a matter of comparing names.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.parallel import path_name

Leaves = dict[str, Any]
Listing = dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)
_SECTIONS = ("params", "ema", "opt_state")
_LAYER = re.compile(r"(?<=encoderblock_)\d+")


def flatten(tree: Any) -> Leaves:
    """The leaves of a pytree by name: arrays, numpy arrays or ShapeDtypeStructs.

    Raises:
        TypeError: if a leaf has no shape and dtype (a Python number).
        ValueError: if two leaves share a name, as {"a/b": x, "a": {"b": y}} would.
    """
    leaves: Leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = path_name(path)
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"{name} is no array but {leaf!r}; a state holds arrays only")
        if name in leaves:
            raise ValueError(f"two leaves of the state are both named {name}")
        leaves[name] = leaf
    return leaves


def unflatten(leaves: Mapping[str, Any], like: Any) -> Any:
    """The pytree of `like`'s structure with the leaves of these names."""
    return jax.tree.map_with_path(lambda path, _: leaves[path_name(path)], like)


def listing(leaves: Mapping[str, Any]) -> Listing:
    """Name, dtype and shape of every leaf: what a checkpoint says it holds."""
    return {k: (str(np.dtype(v.dtype)), tuple(v.shape)) for k, v in leaves.items()}


def part(leaves: Mapping[str, Any], name: str) -> Leaves:
    """The leaves below `name`, called from there: part({"a/b": x, "c": y}, "a") is {"b": x}."""
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in leaves.items() if k.startswith(prefix)}


def not_finite(leaves: Mapping[str, Any]) -> list[str]:
    """Names of the parameters, raw or averaged, that hold NaN or inf. Waits for the device.

    Optimiser states are let be: some hold inf by design.
    """
    finite = {
        name: [_all_finite(part) for part in _parts(leaf)]
        for name, leaf in leaves.items()
        if name.startswith(("params/", "ema/")) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    return [name for name, values in jax.device_get(finite).items() if not all(values)]


def _parts(leaf: Any) -> list[Any]:
    """Each part of an array once, on the device that holds it.

    Reduced where they lie, they need no collective: hundreds of those in flight at once, one a
    leaf, lock up the devices that a CPU is split into.
    """
    if not isinstance(leaf, jax.Array):
        return [leaf]
    return [shard.data for shard in leaf.addressable_shards if shard.replica_id == 0]


@jax.jit
def _all_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


class Misfit(InputError):
    """Arrays whose names or shapes are not those asked for."""


def check_fits(stored: Listing, wanted: Listing, where: str) -> None:
    """Compares what a checkpoint holds with what is asked of it.

    Raises:
        Misfit: listing every name that only one side has, with the nearest name of the other
            side, and every leaf of another shape or dtype. Layers that differ in their number
            only share a line.
    """
    missing = _one_sided(wanted, stored)
    unexpected = _one_sided(stored, wanted)
    other = {
        name: f"is {_show(stored[name])} there and {_show(wanted[name])} here"
        for name in wanted.keys() & stored.keys()
        if stored[name] != wanted[name]
    }
    lines = []
    for title, entries in (
        ("not in the checkpoint", missing),
        ("only in the checkpoint", unexpected),
        ("of another shape or dtype", other),
    ):
        if entries:
            lines.append(f"  {title} ({len(entries)}):")
            lines += [f"    {line}" for line in _lines(entries)]
    if lines:
        states = any(name.startswith("opt_state/") for name in (*stored, *wanted))
        what = "the model or the optimiser" if states else "the model"
        raise Misfit(f"{where} does not fit this run: {what} is another one\n" + "\n".join(lines))


def _one_sided(names: Listing, others: Listing) -> dict[str, str]:
    """Names that `others` lacks, each with its shape and the nearest name that it has instead."""
    spare = sorted({_LAYER.sub("*", name) for name in others.keys() - names.keys()})

    @functools.cache
    def hint(pattern: str) -> str:
        section = pattern.partition("/")[0]  # params are never meant where ema is written
        apart = section in _SECTIONS
        near = [name for name in spare if not apart or name.partition("/")[0] == section]
        close = difflib.get_close_matches(pattern, near, n=1, cutoff=0.8)
        return f" (there is {close[0]})" if close else ""

    return {
        name: _show(names[name]) + hint(_LAYER.sub("*", name))
        for name in names.keys() - others.keys()
    }


def _show(leaf: tuple[str, tuple[int, ...]]) -> str:
    dtype, shape = leaf
    return f"{dtype}[{','.join(map(str, shape))}]"


def grouped(names: Iterable[str]) -> list[str]:
    """Names, with those of encoderblock_0, _1, ... put into one."""
    return [line.removesuffix(": ") for line in _lines(dict.fromkeys(names, ""))]


def _lines(entries: dict[str, str]) -> Iterable[str]:
    """Lines "name: text", with those of encoderblock_0, _1, ... that say the same put into one."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, text in entries.items():
        numbers = groups.setdefault((_LAYER.sub("*", name), _LAYER.sub("*", text)), [])
        numbers += [int(n) for n in _LAYER.findall(name)]
    for (name, text), numbers in sorted(groups.items()):
        star = ",".join(map(str, sorted(numbers)))
        star = f"{{{star}}}" if len(numbers) > 1 else star
        yield f"{name}: {text}".replace("*", star)
