"""The device mesh (data, fsdp, tensor), and how batches and activations lie on it.

`data` replicates parameters and splits the batch; `fsdp` splits both parameters and the batch;
`tensor` splits attention heads and MLP columns. Axis types are Auto, written out: `jax.make_mesh`
defaults to Explicit since JAX 0.9, and Linen's Dropout does not trace in that mode.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from big_vit_lite import config

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""Mesh axes that the batch dimension is split over."""


def make_mesh(
    sizes: config.Mesh | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over `devices` (default: all) with axes data, fsdp and tensor.

    One size may be -1: it takes what the others leave. Of several TPU slices the data axis is the
    one that spans them: gradients, once a step, are all that crosses the slow network between.

    Raises:
        InputError: the sizes do not multiply to the number of devices, or data does not divide by
            the slices.
    """
    sizes = sizes or config.Mesh()
    devices = jax.devices() if devices is None else list(devices)
    shape = [getattr(sizes, axis) for axis in AXES]
    given = 1
    for size in shape:
        given *= 1 if size == -1 else size
    shape = [len(devices) // given if size == -1 else size for size in shape]
    if shape[0] * shape[1] * shape[2] != len(devices):
        raise config.InputError(
            f"mesh: data={sizes.data} x fsdp={sizes.fsdp} x tensor={sizes.tensor} does not make "
            f"{len(devices)} devices; choose sizes whose product is {len(devices)}, or -1 for one."
        )
    types = (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(shape), AXES, devices=devices, axis_types=types)
    if shape[0] % slices:
        raise config.InputError(
            f"mesh: data={shape[0]} does not divide by the {slices} slices, between which only "
            f"`data` may split; set --config.mesh.data={slices} or a multiple of it."
        )
    from jax.experimental.mesh_utils import create_hybrid_device_mesh

    within = (shape[0] // slices, *shape[1:])
    grid = create_hybrid_device_mesh(within, (slices, 1, 1), devices=devices)
    return Mesh(grid, AXES, axis_types=types)


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
    return jax.lax.with_sharding_constraint(x, P(BATCH, *rest))
