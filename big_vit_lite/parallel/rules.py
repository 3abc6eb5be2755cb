"""Which axis of each parameter (and of its optimiser moments) is split over which mesh axis.

Two rules: a short table by path names the axis that tensor parallelism splits (heads, MLP columns);
then the largest axis that divides, of what is left, goes to fsdp. Moments and averages have their
parameter's path and shape, hence its layout.
"""

import re

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

MIN_FSDP_SIZE = 2**14
"""Leaves below this many elements stay whole: gathering them costs more than holding them."""

# (path pattern, axis counted from the end): columns first, rows second, so that one all-reduce
# closes each pair (Shoeybi 2019, Megatron-LM).
TENSOR_AXES = (
    (r"(query|key|value)/kernel$", -2),
    (r"(query|key|value)/bias$", -2),
    (r"out/kernel$", -3),
    (r"Dense_0/kernel$", -1),
    (r"Dense_0/bias$", -1),
    (r"Dense_1/kernel$", -2),
    (r"head/kernel$", -1),
    (r"head/bias$", -1),
)
# A scanned stack has depth as its first axis: every layer is sliced off it, so it stays whole.
STACKED = re.compile(r"(^|/)encoderblock/")


def path_name(path: tuple) -> str:
    """'opt_state/0/mu/head/kernel' for a key path of jax.tree_util."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The PartitionSpec of one leaf, from its path and shape."""
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    if tensor > 1:
        for pattern, axis in TENSOR_AXES:
            if re.search(pattern, name) and len(shape) >= -axis and shape[axis] % tensor == 0:
                spec[axis] = "tensor"
                break
    size = 1
    for n in shape:
        size *= n
    if fsdp > 1 and size >= MIN_FSDP_SIZE:
        first = 1 if STACKED.search(name) else 0
        free = [i for i in range(first, len(shape)) if spec[i] is None and shape[i] % fsdp == 0]
        if free:
            spec[max(free, key=lambda i: shape[i])] = "fsdp"
    return P(*spec)


def state_shardings(abstract, mesh: Mesh):
    """A NamedSharding for every leaf of a training state (arrays or ShapeDtypeStructs)."""
    return jax.tree.map_with_path(
        lambda path, x: NamedSharding(mesh, leaf_spec(path_name(path), x.shape, mesh)), abstract
    )


def with_shardings(abstract, mesh: Mesh):
    """The same tree of ShapeDtypeStructs, each with the sharding that the rules give it."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        state_shardings(abstract, mesh),
    )


def relayout(transform, tree, mesh: Mesh):
    """`transform(tree)` as one compiled function, born in the shardings of what comes out.

    For changes of form (layers stacked or side by side) of states too large for one device.
    """
    shardings = state_shardings(jax.eval_shape(transform, tree), mesh)
    return jax.jit(transform, out_shardings=shardings)(tree)
