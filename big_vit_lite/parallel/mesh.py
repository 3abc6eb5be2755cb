"""The device mesh (data, fsdp, tensor; sequence and stage), and how activations lie on it.

`data` replicates parameters and splits the batch; `fsdp` splits both parameters and the batch;
`tensor` splits attention heads, MLP columns, the head's classes and embedded features; `sequence`
splits the tokens of each image between matrix products; `stage` splits the blocks over depth, see
models/layers/pipeline.py. Axis types are Auto, written out: `jax.make_mesh` defaults to Explicit
since JAX 0.9, and Linen's Dropout does not trace in that mode.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Shaped

from big_vit_lite import config

AXES = ("stage", "data", "fsdp", "sequence", "tensor")
"""All axes, those that exchange least first; stage and sequence are there only if they split."""
BATCH = ("data", "fsdp")
"""Mesh axes that the batch dimension is split over."""


def make_mesh(
    sizes: config.Mesh | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over `devices` (default: all) with axes data, fsdp and tensor, and others if asked.

    One size may be -1: it takes what the others leave. Of several TPU slices one axis spans them,
    so that little crosses the slow network between: `data`, whose gradients cross once a step, or
    else `stage`, of which tokens cross.

    Raises:
        InputError: the sizes do not multiply to the number of devices, or neither data nor stage
            divides by the slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    asked = config.mesh_sizes(sizes or config.Mesh())
    given = {axis: asked[axis] for axis in AXES if axis in asked}
    fixed = math.prod(size for size in given.values() if size != -1)
    shape = {axis: len(devices) // fixed if n == -1 else n for axis, n in given.items()}
    if math.prod(shape.values()) != len(devices):
        shown = " x ".join(f"{axis}={size}" for axis, size in given.items())
        raise config.InputError(
            f"mesh: {shown} does not make {len(devices)} devices; choose sizes whose product is "
            f"{len(devices)}, or -1 for one."
        )
    axes, types = tuple(shape), (AxisType.Auto,) * len(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(shape.values()), axes, devices=devices, axis_types=types)
    across = [axis for axis in ("data", "stage") if shape.get(axis, 1) % slices == 0]
    if not across:
        raise config.InputError(
            f"mesh: data={shape['data']} does not divide by the {slices} slices, between which "
            f"only `data` or `stage` may split; set --config.mesh.data={slices} or a multiple."
        )
    from jax.experimental.mesh_utils import create_hybrid_device_mesh

    between = tuple(slices if axis == across[0] else 1 for axis in axes)
    within = tuple(n // m for n, m in zip(shape.values(), between, strict=True))
    return Mesh(create_hybrid_device_mesh(within, between, devices=devices), axes, axis_types=types)


def axis_size(axis: str) -> int:
    """Devices along an axis of the mesh that is set; 1 without."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get(axis, 1)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batch arrays: first axis over (data, fsdp), the rest whole."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same whole array on every device."""
    return NamedSharding(mesh, P())


def constrain(x: Shaped[Array, "b ..."], *rest: str | None) -> Shaped[Array, "b ..."]:
    """Pins the batch axis of an activation to (data, fsdp), and later axes to `rest`.

    Without it XLA follows the parameters' sharding inside a scanned FSDP model and gathers the
    batch: no error, the same loss, four times the memory. A no-op outside `jax.set_mesh`, so that
    models work in a notebook, and for batches that do not divide (tracing with one image).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH) <= set(mesh.axis_names):
        return x
    if x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x
    rest = tuple(axis if axis in mesh.axis_names else None for axis in rest)
    return jax.lax.with_sharding_constraint(x, P(BATCH, *rest))


def split_tokens(x: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
    """Tokens over the axis `sequence`, behind them zeros until they divide; x without that axis."""
    ways = axis_size("sequence")
    if ways == 1:
        return x
    return constrain(jnp.pad(x, ((0, 0), (0, -x.shape[1] % ways), (0, 0))), "sequence")


def whole_tokens(x: Float[Array, "b m h k"], tokens: int) -> Float[Array, "b n h k"]:
    """Keys or values of all tokens on each device, the first `tokens` of them, without padding."""
    return constrain(x, None, "tensor")[:, :tokens]
