"""The two forms of layers in parameter trees: a leading depth axis, or one dict a layer.

Scanned models keep Transformer/encoderblock/..., unrolled ones Transformer/encoderblock_0/... and
so on. Optimiser states and averages hold trees of the same names, wherever they are in a state. A
model may have several stacks, each with its own depth: the name above, such as Encoder_0, tells
them apart.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STACKED = "encoderblock"


def unstack_layers(tree: Any) -> Any:
    """Replaces every `encoderblock` in a pytree by `encoderblock_0`, `encoderblock_1`, ...

    Works on arrays, NumPy arrays (no device is touched), tracers and ShapeDtypeStructs. A tree in
    the unrolled form comes back as it is.
    """
    return _unstack(tree, _depths(tree))


def stack_layers(tree: Any) -> Any:
    """Replaces `encoderblock_0`, `encoderblock_1`, ... by one `encoderblock`."""
    return jax.tree.map(_stack_dict, tree, is_leaf=lambda node: isinstance(node, dict))


def _stack_dict(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    layers = {name: node[name] for name in node if _is_layer(name)}
    rest = {name: stack_layers(sub) for name, sub in node.items() if name not in layers}
    if not layers:
        return rest
    missing = [f"{STACKED}_{i}" for i in range(len(layers)) if f"{STACKED}_{i}" not in layers]
    if missing:
        raise ValueError(f"{missing[0]} is missing among {len(layers)} layers: {sorted(layers)}.")
    ordered = [layers[f"{STACKED}_{i}"] for i in range(len(layers))]
    return rest | {STACKED: jax.tree.map(lambda *leaves: _join(leaves), *ordered)}


def _unstack(tree: Any, depths: dict[Any, set[int]], above: Any = None) -> Any:
    def one(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        rest = {name: _unstack(sub, depths, name) for name, sub in node.items() if name != STACKED}
        if STACKED not in node:
            return rest
        # Masked optimiser states have layers without leaves: their depth is that of the others.
        own = _depths(node).get(None) or depths.get(above, set())
        if len(own) != 1:
            raise ValueError(f"The depth of {STACKED} is not clear: leading axes {sorted(own)}.")
        sub = node[STACKED]
        return rest | {
            f"{STACKED}_{i}": jax.tree.map(lambda x, i=i: _take(x, i), sub)
            for i in range(next(iter(own)))
        }

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, dict))


def _depths(tree: Any) -> dict[Any, set[int]]:
    """Leading axes of all leaves below an `encoderblock`, by the name above it (None: the root)."""
    found: dict[Any, set[int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [getattr(entry, "key", None) for entry in path]
        if STACKED in names:
            at = names.index(STACKED)
            found.setdefault(names[at - 1] if at else None, set()).add(leaf.shape[0])
    return found


def _is_layer(name: Any) -> bool:
    head, _, index = str(name).rpartition("_")
    return head == STACKED and index.isdigit()


def _take(x: Any, i: int) -> Any:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if _is_abstract(x) else x[i]


def _join(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if _is_abstract(first):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    return np.stack(leaves) if isinstance(first, np.ndarray) else jnp.stack(leaves)


def _is_abstract(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)
