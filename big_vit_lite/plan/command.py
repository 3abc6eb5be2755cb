"""`python -m big_vit_lite.train ... --dry_run`: plans a run instead of training it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from big_vit_lite import assembly, checks, config, parallel, storage
from big_vit_lite.plan import remedies, text
from big_vit_lite.plan.make import Plan, make
from big_vit_lite.plan.topology import devices, parse

OPTIONS = (
    config.Option(
        "dry_run",
        "",
        "Trains nothing: compiles the step and prints what it takes of memory, what moves between "
        "devices, and the shortest time it can take; where it does not fit, also what would. "
        "Needs no data.",
    ),
    config.Option(
        "topology",
        "NAME",
        "With --dry_run: for TPUs that are not here, on any Linux machine: v5e-16 or v5e:4x4, "
        "v4-32, v5p-128, v6e-256, 2xv5e-16 for two slices. By default this machine's devices.",
        parse,
    ),
    config.Option("json", "FILE", "With --dry_run: also writes the plan there, as JSON.", Path),
)


def main(argv: Sequence[str]) -> int:
    """Plans and prints; the exit code is 0 also for a run that does not fit.

    Raises:
        InputError: wrong input, libtpu that is missing, a file that cannot be written.
    """
    told: dict[str, Any] = {}

    def count(run: config.Run) -> int:
        return told["topology"].devices if "topology" in told else assembly.count_devices(run)

    line = config.command_line(
        argv,
        program="python -m big_vit_lite.train",
        about="Plans a run: what its step takes, and on which chips it fits.",
        options=(*parallel.OPTIONS, *OPTIONS),
        checks=(checks.sizes, checks.transforms, checks.images, checks.devices(count)),
        begin=told.update,
    )
    if "json" in told:  # said now rather than after compiling
        with _written(told["json"]):
            storage.check_replaceable(told["json"])
    run, topology = line.run, told.get("topology")
    chips = devices(topology) if topology else _own_devices(run)
    plan = make(run, parallel.make_mesh(run.mesh, chips), topology and str(topology))
    print(text.describe(plan), flush=True)
    trials: list[remedies.Trial] = []

    def save() -> None:
        if "json" in told:
            write(told["json"], line.source, dict(line.overrides), plan, trials)

    def tell(trial: remedies.Trial) -> None:
        print(text.trial_line(trial), flush=True)
        trials.append(trial)
        save()  # the next one may take more memory than this machine has

    save()
    if plan.fits is False:
        print("\ntried instead", flush=True)
        remedies.search(run, chips, plan, tell)
        if not any(trial.plan.fits for trial in trials):
            print("  nothing tried fits: take more chips, or chips with more memory")
    return 0


def write(
    file: Path, source: str, overrides: dict[str, str], plan: Plan, trials: Sequence[remedies.Trial]
) -> None:
    """Writes a plan with the changes that were tried so far as one JSON object, whole.

    Raises:
        InputError: the file cannot be written.
    """
    tried = [{"changes": t.changes, "meaning": t.meaning, **t.plan.to_dict()} for t in trials]
    whole = {"config": source, "overrides": overrides, "jax": jax.__version__, **plan.to_dict()}
    with _written(file):
        storage.replace(file, json.dumps(whole | {"tried": tried}, indent=2).encode() + b"\n")


@contextlib.contextmanager
def _written(file: Path) -> Iterator[None]:
    """Makes an OSError of what it encloses the InputError of a file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise config.InputError(f"--json {file} cannot be written: {error.strerror}") from error


def _own_devices(run: config.Run) -> list[jax.Device]:
    parallel.start(run.deterministic)
    return jax.devices()
