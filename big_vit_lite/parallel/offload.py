"""The optimiser's state in the host's memory between steps (ZeRO-Offload, Ren 2021, without its
CPU optimiser): it comes to the device for the update alone, and leaves again.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from big_vit_lite.config import InputError

HOST = "pinned_host"


def offloaded(abstract: Any, mesh: Mesh) -> Any:
    """The same tree of ShapeDtypeStructs, with arrays (all but single numbers) on the host.

    Raises:
        InputError: the devices cannot reach the host's memory.
    """
    device = mesh.devices.flat[0]
    # Devices of a plan are on no machine and tell of no memories; TPUs all have this one.
    memories = device.addressable_memories() if device in jax.devices() else ()
    if memories and HOST not in {memory.kind for memory in memories}:
        raise InputError(
            f"optim.offload is true, but {device.device_kind} with this version of JAX cannot "
            "keep arrays in the host's memory: set it to false, or raise mesh.fsdp."
        )

    def move(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not x.shape:
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding.with_memory_kind(HOST))

    return jax.tree.map(move, abstract)


def on_device(tree: Any) -> Any:
    """Inside jit: the same values in the device's memory."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), tree)


def is_on_host(x: Any) -> bool:
    """Whether an array, or what will be one, lies in the host's memory."""
    return getattr(x.sharding, "memory_kind", None) == HOST
