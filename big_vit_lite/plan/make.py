"""Compiles a run's step for a mesh and reads off what it takes."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from big_vit_lite import assembly, models, optim, parallel, report
from big_vit_lite.config import Run
from big_vit_lite.plan.batches import Batches, describe
from big_vit_lite.plan.costs import Collective, collectives, memory_traffic
from big_vit_lite.plan.hlo import Program

_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|Ran out of memory|out of memory", re.I)
_NEEDED = re.compile(r"temporaries \(([\d.]+)([KMGT])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Plan:
    """What one step takes; bytes, FLOPs and seconds are those of one device.

    A device is a chip, or half of one on TPU v2, v3 and 7x.

    Attributes:
        state_bytes: parameters, optimiser state and averages.
        whole_state_bytes: the same before it is split.
        peak_bytes: arguments + outputs - aliased + temporaries; where the compiler refused, the
            temporaries it asked for with state and batch.
        aliased_bytes: arguments whose memory the outputs take over: the donated state.
        limit_bytes: what a program may take; None where it is not known.
        compiled: False where the compiler refused for want of memory: what follows is then None.
        collectives: by kind.
        memory_bytes: read from and written to main memory.
        flops: analytic, of the model: forward and backward, without what remat computes again.
        peak_flops: FLOP/s of a device; None where it is not known.
        floors: seconds below which a step cannot be, by what sets them: compute, memory,
            interconnect; only those whose rates are known.
        unknown_loops: loops in the program whose turns are not known; they count once.
    """

    model: str
    parameters: int
    topology: str | None
    device_kind: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    settings: dict[str, Any]
    state_bytes: int
    whole_state_bytes: int
    peak_bytes: int
    limit_bytes: int | None
    flops: int
    peak_flops: float | None
    compiled: bool
    compile_s: float
    argument_bytes: int | None = None
    output_bytes: int | None = None
    aliased_bytes: int | None = None
    temporary_bytes: int | None = None
    collectives: dict[str, Collective] | None = None
    memory_bytes: int | None = None
    floors: dict[str, float] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0
    assumed: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        """None where the limit is not known."""
        if not self.compiled:
            return False
        return None if self.limit_bytes is None else self.peak_bytes <= self.limit_bytes

    @property
    def uneven(self) -> bool:
        """Whether fsdp leaves much of the state whole, as its leaves do not divide by it."""
        ways = self.mesh["fsdp"]
        return ways > 1 and self.state_bytes > 1.5 * self.whole_state_bytes / ways

    @property
    def roofline_s(self) -> float | None:
        """The step cannot take less; the largest of the floors."""
        return max(self.floors.values(), default=None)

    @property
    def dominates(self) -> str | None:
        """Which of the floors that is."""
        return max(self.floors, key=self.floors.get, default=None)

    @property
    def mfu(self) -> float | None:
        """Share of the peak FLOP/s that the model's own FLOPs come to at the roofline."""
        if not self.roofline_s or not self.peak_flops:
            return None
        return self.flops / self.peak_flops / self.roofline_s

    @property
    def images_per_s(self) -> float | None:
        """At most, over all devices."""
        return self.roofline_s and self.batch_size / self.roofline_s

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what follows from other fields is there, too."""
        return dataclasses.asdict(self) | {
            "fits": self.fits,
            "donated_bytes": self.aliased_bytes,
            "roofline_s": self.roofline_s,
            "dominates": self.dominates,
            "images_per_s": self.images_per_s,
            "mfu": self.mfu,
        }


def make(run: Run, mesh: Mesh, topology: str | None = None, batches: Batches | None = None) -> Plan:
    """Compiles the step that training would run, by the same functions, and reads it.

    Args:
        mesh: its devices may be absent ones.
        topology: their name, for the report.
        batches: by default what `describe` finds.

    Raises:
        InputError: what training would refuse, too.
    """
    batches = batches or describe(run, mesh)
    parts = assembly.assemble_step(run, mesh, batches)
    optimizer = optim.build(run, assembly.abstract_params(parts), parts.steps, batches.examples)
    state = parallel.abstract_state(parts.task, optimizer, mesh, run.seed)
    state_bytes = parallel.shard_bytes(state)
    device = mesh.devices.flat[0]
    began = time.monotonic()
    training, refused = None, ""
    try:
        training = parallel.compile_training(parts.task, optimizer, mesh, batches.spec, run.seed)
    except jax.errors.JaxRuntimeError as error:
        if not _EXHAUSTED.search(str(error)):
            raise
        refused = str(error)
    tower = models.image_tower(parts.model)
    images = run.data.batch_size * assembly.train_flops(parts)
    common = {
        "model": run.model.variant,
        "parameters": sum(x.size for x in jax.tree.leaves(assembly.abstract_params(parts))),
        "topology": topology,
        "device_kind": device.device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": run.data.batch_size,
        "settings": {
            "remat": tower.remat,
            "scan": parts.model.scan,
            "dtype": str(np.dtype(tower.block.dtype if hasattr(tower, "block") else tower.dtype)),
            "accumulate": run.optim.accumulate,
            "mu_dtype": run.optim.mu_dtype,
        },
        "state_bytes": state_bytes,
        "whole_state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        "limit_bytes": report.capacity(device),
        "flops": images // mesh.size,
        "peak_flops": report.peak_flops(device),
        "compile_s": round(time.monotonic() - began, 1),
        "assumed": batches.assumed,
    }
    if training is None:
        batch = parallel.shard_bytes(batches.spec)
        peak = state_bytes + batch + _needed(refused)
        return Plan(**common, peak_bytes=peak, compiled=False)
    return Plan(**common, compiled=True, **_read(training.compiled, parts, common["flops"]))


def _read(compiled, parts, flops: int) -> dict[str, Any]:
    """What the compiled step says of itself."""
    memory = compiled.memory_analysis()
    program = Program(compiled.as_text())
    devices = list(parts.mesh.devices.flat)
    slices = np.array([getattr(d, "slice_index", 0) for d in devices])
    moved = collectives(program, slices)
    traffic = memory_traffic(program)
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "collectives": moved,
        "memory_bytes": traffic,
        "floors": floors(devices[0], flops, models.image_tower(parts.model).remat, traffic, moved),
        "unknown_loops": program.unknown_loops,
    }


def floors(
    device: jax.Device, flops: int, remat: str, traffic: int, moved: dict[str, Collective]
) -> dict[str, float]:
    """Seconds that compute, memory and interconnect need at their peaks (Williams 2009, roofline).

    Remat "full" computes the forward pass once more, a third of the model's FLOPs. What the three
    do at the same time takes the longest of them, and never less.
    """
    rate = report.peak_flops(device)
    found = {}
    if rate:
        found["compute"] = flops * (4 / 3 if remat == "full" else 1) / rate
    known = report.peaks(device)
    if known:
        found["memory"] = traffic / known.memory
        if moved:
            found["interconnect"] = sum(c.bytes for c in moved.values()) / known.links
        across = sum(c.network_bytes for c in moved.values())
        if across and known.network:
            found["network"] = across / known.network
    return found


def _needed(refused: str) -> int:
    """Bytes that the compiler asked for when it gave up; 0 where it does not say."""
    match = _NEEDED.search(refused)
    return int(float(match[1]) * _UNITS[match[2]]) if match else 0
