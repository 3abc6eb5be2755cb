"""Which axis of each parameter (and of its optimiser moments) is split over which mesh axis.

Three rules: a scanned stack is split by depth over the stages of a pipeline; a short table by path
names the axis that tensor parallelism splits (heads, MLP columns, classes, embedded features); then
the largest axis that divides, of what is left, goes to fsdp. Moments and averages have their
parameter's path and shape, hence its layout.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from big_vit_lite.parallel.offload import on_device

MIN_FSDP_SIZE = 2**14
"""Leaves below this many elements stay whole: gathering them costs more than holding them."""

# (path pattern, axis counted from the end): columns first, rows second, so that one all-reduce
# closes each pair (Shoeybi 2019, Megatron-LM). Where the axis does not divide, a later line may.
TENSOR_AXES = (
    (r"(query|key|value)/kernel$", -2),
    (r"(query|key|value)/bias$", -2),
    (r"out/kernel$", -3),
    (r"(Dense|Gate)_0/kernel$", -1),
    (r"(Dense|Gate)_0/bias$", -1),
    (r"Dense_1/kernel$", -2),
    (r"(pre_logits|head|head_dist)/kernel$", -1),
    (r"(pre_logits|head|head_dist)/bias$", -1),
    (r"(head|head_dist)/kernel$", -2),
    (r"embedding/(kernel|bias)$", -1),
    (r"Embed_0/embedding$", -1),
    (r"(pos_embedding|cls|dist|registers|probe)$", -1),
)
# A scanned stack has depth as its first axis: every layer is sliced off it, so it stays whole.
STACKED = re.compile(r"(^|/)encoderblock/")
SIDE_BY_SIDE = re.compile(r"(^|/)encoderblock_\d+/")


def path_name(path: tuple) -> str:
    """'opt_state/0/mu/head/kernel' for a key path of jax.tree_util."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The PartitionSpec of one leaf, from its path and shape."""
    spec: list[str | None] = [None] * len(shape)
    tensor, stages = mesh.shape["tensor"], mesh.shape.get("stage", 1)
    if stages > 1 and STACKED.search(name) and shape[0] % stages == 0:
        spec[0] = "stage"
    if tensor > 1:
        for pattern, axis in TENSOR_AXES:
            if re.search(pattern, name) and len(shape) >= -axis and shape[axis] % tensor == 0:
                spec[axis] = "tensor"
                break
    if math.prod(shape) < MIN_FSDP_SIZE:
        return P(*spec)
    first = 1 if STACKED.search(name) else 0

    def split_largest(axis: str) -> None:
        """Gives the largest axis that divides, of those left, to an axis of the mesh."""
        n = mesh.shape[axis]
        free = [i for i in range(first, len(shape)) if spec[i] is None and shape[i] % n == 0]
        if n > 1 and free:
            spec[max(free, key=lambda i: shape[i])] = axis

    split_largest("fsdp")
    if stages > 1 and SIDE_BY_SIDE.search(name):
        split_largest("stage")  # as checkpoints hold what a pipeline splits by depth
    return P(*spec)


def gather_weights(
    params, dtype: DTypeLike, depth: int | None = None, grad_dtype: str | None = None
):
    """The parameters of one block, whole along fsdp and kernels in the type they are computed in.

    Called where a block begins, so that each device gathers one block's weights in half the bytes,
    and gathers them again for the backward pass under remat. Left to itself XLA moves pieces of
    them around the ring beside each matrix product: for a ViT-B/16 on 16 v5e, 1.6 times the bytes
    and 4 % more memory. It changes no number: layers cast their kernels in any case.

    Args:
        depth: of the stack that the block was sliced from, None where layers stand side by side.
        grad_dtype: float32 where gradients leave the products in it, though weights travel in
            `dtype`; None: they leave in `dtype`, too.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def gather(path, weight):
        name = f"encoderblock/{path_name(path)}"
        if depth is None:
            spec = leaf_spec(name.replace("/", "_0/", 1), weight.shape, mesh)
        else:
            spec = leaf_spec(name, (depth, *weight.shape), mesh)[1:]
        if "fsdp" not in spec:
            return weight
        whole = P(*(None if axis == "fsdp" else axis for axis in spec))
        if name.endswith("/kernel") and grad_dtype != weight.dtype:
            weight = weight.astype(dtype)
        elif name.endswith("/kernel"):
            return _gather_rounded(weight, jnp.dtype(dtype), whole)
        return jax.lax.with_sharding_constraint(weight, whole)

    return jax.tree.map_with_path(gather, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather_rounded(weight, dtype: DTypeLike, whole: P):
    """The weight's values in `dtype`, gathered in it, but held in its own type, so that gradients
    come in that."""
    gathered = jax.lax.with_sharding_constraint(weight.astype(dtype), whole)
    return gathered.astype(weight.dtype)


_gather_rounded.defvjp(
    lambda weight, dtype, whole: (_gather_rounded(weight, dtype, whole), None),
    lambda dtype, whole, _, g: (g,),
)


def weights_are_split() -> bool:
    """Whether the mesh that is set splits parameters over several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape.get("fsdp", 1) > 1


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

    For changes of form (layers stacked or side by side) of states too large for one device. What
    lies in the host's memory comes out on the devices.
    """

    def change(tree):
        return transform(on_device(tree))

    shardings = state_shardings(jax.eval_shape(change, tree), mesh)
    return jax.jit(change, out_shardings=shardings)(tree)
