"""What the section mesh means, and what it asks of the number of devices."""

from __future__ import annotations

import math
from collections.abc import Iterator

from big_vit_lite.config.errors import Fault
from big_vit_lite.config.schema import Mesh, Run


def mesh_sizes(mesh: Mesh) -> dict[str, int]:
    """Mesh axes and their sizes; sequence and stage only where they are set."""
    sizes = mesh.model_dump(exclude={"microbatches"})
    return {k: n for k, n in sizes.items() if n != 1 or k not in ("sequence", "stage")}


def microbatches(mesh: Mesh) -> int:
    """Parts of a batch in a pipeline; 1 without one."""
    return 1 if mesh.stage == 1 else mesh.microbatches or 4 * mesh.stage


def check_mesh(run: Run) -> Iterator[Fault]:
    """Faults of the section mesh, as far as the config alone can tell."""
    sizes = mesh_sizes(run.mesh)
    if run.mesh.microbatches is not None and run.mesh.stage == 1:
        wanted = "has a meaning only where mesh.stage is above 1"
        yield Fault("mesh.microbatches", wanted, run.mesh.microbatches, ("mesh.stage",))
    if run.mesh.stage == -1:
        yield Fault("mesh.stage", "wants a number of stages; -1 is for the other axes", -1)
    elif run.mesh.stage > 1 and run.model.scan is False:
        wanted = "must be none or true, as mesh.stage splits blocks that are stacked over depth"
        yield Fault("model.scan", wanted, False, ("mesh.stage",))
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            yield Fault(
                f"mesh.{axis}", "wants a number of devices, or -1 for all that are left", size
            )
    if (free := [axis for axis, size in sizes.items() if size == -1])[1:]:
        wanted = f"mesh.{free[0]} is -1 already, and only one can take what is left"
        yield Fault(f"mesh.{free[1]}", wanted, -1, (f"mesh.{free[0]}",))


def check_devices(run: Run, devices: int) -> Iterator[Fault]:
    """What a run asks of a number of devices: the mesh covers them, the batch divides."""
    sizes = mesh_sizes(run.mesh)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    free = [axis for axis, size in sizes.items() if size == -1]
    if min(sizes.values()) < -1 or 0 in sizes.values() or len(free) > 1:
        return
    if devices % fixed or (not free and fixed != devices):
        shown = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        wanted = f"{shown} does not make {devices} devices; use sizes whose product is {devices}"
        yield Fault("mesh", f"{wanted}, or -1 for one of them")
        return
    sizes |= {axis: devices // fixed for axis in free}
    ways, parts, micro = sizes["data"] * sizes["fsdp"], run.optim.accumulate, microbatches(run.mesh)
    if run.data.batch_size % (ways * parts * micro):
        among = f"{ways} devices" + (f" x {parts} accumulated parts" if parts > 1 else "")
        among += f" x {micro} micro-batches" if micro > 1 else ""
        wanted = f"must be a multiple of {ways * parts * micro} ({among})"
        depends = ("mesh", "optim.accumulate")
        yield Fault("data.batch_size", wanted, run.data.batch_size, depends)
    for name, evaluation in run.evals.items():
        size = evaluation.batch_size
        if size is not None and size % ways:
            wanted = f"must be a multiple of {ways}, the devices that share a batch"
            yield Fault(f"evals.{name}.batch_size", wanted, size, ("mesh",))
