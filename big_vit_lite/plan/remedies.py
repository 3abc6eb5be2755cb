"""Changes to a run that does not fit, each tried by compiling it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from big_vit_lite import assembly, config, optim, parallel
from big_vit_lite.config import InputError, Run
from big_vit_lite.plan.batches import describe
from big_vit_lite.plan.make import Plan, make

ROUNDS = 3  # doublings of one change that are tried before it is given up


class Trial(NamedTuple):
    """A change and what became of it.

    Attributes:
        changes: fields and their new values, as for --config.FIELD=VALUE.
        meaning: what the change costs.
    """

    changes: dict[str, Any]
    meaning: str
    plan: Plan

    def __str__(self) -> str:
        return " ".join(f"--config.{key}={value}" for key, value in self.changes.items())


def search(run: Run, devices: list[jax.Device], plan: Plan, say=lambda trial: None) -> list[Trial]:
    """Tries what makes a run smaller, one change at a time, then all of them together.

    Each change goes as far as it must to fit, by powers of two; one that cannot apply (fsdp on a
    single device, remat that is full already) is left out.

    Args:
        plan: the run's own, which does not fit.
        say: called with each trial as soon as it is done.
    """
    trials: list[Trial] = []
    together: dict[str, Any] = {}

    def attempt(changes: dict[str, Any], meaning: str) -> Trial | None:
        try:
            changed = with_changes(run, changes)
            mesh = parallel.make_mesh(changed.mesh, devices)
            if any(config.check_devices(changed, len(devices))):
                return None
            trial = Trial(changes, meaning, make(changed, mesh, plan.topology))
        except InputError:
            return None
        trials.append(trial)
        say(trial)
        return trial

    for changes, meaning in _single(run, devices, plan):
        if attempt(changes, meaning):
            together |= changes
    for changes in _doubled(run, plan, "optim.accumulate", run.optim.accumulate, 2):
        trial = attempt(changes, "the same result, computed in parts")
        if trial is None or trial.plan.fits:
            break
    for changes in _doubled(run, plan, "data.batch_size", run.data.batch_size, 0.5):
        trial = attempt(changes, "another run: it asks for another learning rate")
        if trial is None or trial.plan.fits:
            break
    if not any(trial.plan.fits for trial in trials) and together:
        for changes in ({}, *_doubled(run, plan, "optim.accumulate", run.optim.accumulate, 2)):
            trial = attempt(together | changes, "all of it together")
            if trial is None or trial.plan.fits:
                break
    return trials


def with_changes(run: Run, changes: dict[str, Any]) -> Run:
    """The run with some fields set to other values, by their full names."""
    values = run.to_dict()
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[name] = value
    return Run.model_validate(values)


def _single(run: Run, devices: list[jax.Device], plan: Plan) -> Iterator[tuple[dict, str]]:
    split = best_split(run, devices, plan)
    if split is not None:
        data, fsdp = split
        yield {"mesh.data": data, "mesh.fsdp": fsdp}, "the same result, more between chips"
    towers = ("model.remat", "text.remat") if run.text is not None else ("model.remat",)
    if plan.settings["remat"] == "none":
        yield dict.fromkeys(towers, "dots"), "the same result, activations computed again"
    if plan.settings["remat"] != "full":
        yield dict.fromkeys(towers, "full"), "the same result, the forward pass computed again"


def best_split(run: Run, devices: list[jax.Device], plan: Plan) -> tuple[int, int] | None:
    """(data, fsdp) that leave the least of the state on each device; None where it is so already.

    More is not always less: a leaf whose sizes do not divide by fsdp stays whole.
    """
    ways = plan.mesh["data"] * plan.mesh["fsdp"]
    found = {plan.mesh["fsdp"]: plan.state_bytes}
    for fsdp in (n for n in range(2, ways + 1) if ways % n == 0):
        sizes = {"mesh.data": ways // fsdp, "mesh.fsdp": fsdp}
        try:
            mesh = parallel.make_mesh(with_changes(run, sizes).mesh, devices)
            found[fsdp] = _state_bytes(run, mesh)
        except InputError:
            continue
    # The fewest ways within 5 % of the least: what is gained by more is paid in messages.
    least = min(found.values())
    fsdp = min(n for n, size in found.items() if size <= 1.05 * least)
    if found[fsdp] > 0.9 * plan.state_bytes:
        return None
    return ways // fsdp, fsdp


def _state_bytes(run: Run, mesh: Mesh) -> int:
    batches = describe(run, mesh)
    parts = assembly.assemble_step(run, mesh, batches)
    optimizer = optim.build(run, assembly.abstract_params(parts), parts.steps, batches.examples)
    return parallel.shard_bytes(parallel.abstract_state(parts.task, optimizer, mesh, run.seed))


def _doubled(run: Run, plan: Plan, key: str, value: int, factor: float) -> Iterator[dict[str, Any]]:
    """A field times `factor`, from the first power that may be enough."""
    first = 1
    if plan.limit_bytes and plan.state_bytes < plan.limit_bytes:
        # Nearly all beside the state is activations, which are proportional to the images.
        beside = (plan.peak_bytes - plan.state_bytes) / (plan.limit_bytes - plan.state_bytes)
        first = max(1, math.ceil(math.log2(max(beside, 1.01))))
    for power in range(first, first + ROUNDS):
        new = value * factor**power
        if new < 1 or new != int(new):
            return
        yield {key: int(new)}
