"""Arrays to disk and back, through Orbax v1: sharded, asynchronous, onto any mesh.

Only this file knows Orbax. It stores one flat {name: array} under the item "state". Compression is
off: on float32 weights it saves 8 % of the bytes and more than doubles the time of a restore.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from big_vit_lite import storage
from big_vit_lite.storage import Place

ITEM = "state"
SMALLEST_SLICE = 1 << 20  # bytes
TEMPORARY = ".orbax-checkpoint-tmp"  # what Orbax calls a directory it has not finished


class _RaisedAnyway(logging.Filter):
    """Holds back the tracebacks that Orbax's threads log of errors which `result()` raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)


_RAISED_ANYWAY = _RaisedAnyway()


def start_saving(directory: Place, leaves: Mapping[str, Any]):
    """Begins a save; on return the arrays may be donated or deleted.

    Returns:
        Orbax's response, whose `result()` waits until `directory` is there and whole.
    """
    from orbax.checkpoint import v1 as ocp

    logging.getLogger("absl").addFilter(_RAISED_ANYWAY)  # the same one again adds nothing
    context = ocp.Context()
    context.array.saving.use_compression = False
    # Copies on several hosts share the writing. Each slice is a program to compile first: on one
    # host, and for small arrays, that takes longer than what it saves.
    context.array.saving.use_replica_parallel = jax.process_count() > 1
    context.array.saving.min_slice_bytes_for_replica_parallel = SMALLEST_SLICE
    # Made in background, a directory that cannot be made would be waited for, for 20 minutes.
    context.asynchronous.create_directories_asynchronously = False
    arrays = {
        name: leaf if isinstance(leaf, jax.Array) else np.array(leaf)
        for name, leaf in leaves.items()
        if leaf.size  # Orbax refuses empty arrays; they are made anew when read
    }
    with context:
        return ocp.save_checkpointables_async(_orbax_path(directory), {ITEM: arrays})


def load(directory: Place, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Reads the named arrays, each of the dtype and shape stored, in the sharding asked for.

    Args:
        directory: a finished checkpoint.
        wanted: {name: ShapeDtypeStruct}, a part of what is stored; a leaf without a sharding goes
            to the first device.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = True
    single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    specs = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or single
        )
        for name, leaf in wanted.items()
    }
    full = {name: spec for name, spec in specs.items() if spec.size}
    with context:
        place = _orbax_path(directory)
        loaded = ocp.load_checkpointables(place, {ITEM: full})[ITEM] if full else {}
    empty = {
        name: jax.make_array_from_callback(
            spec.shape, spec.sharding, lambda index, spec=spec: np.zeros(spec.shape, spec.dtype)
        )
        for name, spec in specs.items()
        if not spec.size
    }
    return {**loaded, **empty}


def _orbax_path(directory: Place) -> Any:
    """What Orbax takes: an absolute path or a URL."""
    if not storage.is_store(directory):
        return directory.absolute()
    # Where TensorFlow is installed, Orbax's paths would go through it, and import it.
    os.environ.setdefault("EPATH_USE_TF", "false")
    return str(directory)
