"""Plans many runs on many TPU slices, and writes them as a table.

    python tools/plan.py                   # every shipped config, as in docs/plans.md
    python tools/plan.py --only G/14       # those of them whose line says G/14
    python tools/plan.py --configs "configs/vit_b16.py configs/vit_s16.py" --topologies "v5e-16"

Needs libtpu (pip install 'jax[tpu]') and no TPU. Rows are appended to --out as they are made; what
is there already, made by the same versions from the same config, is not made again. A compilation
takes 10 to 90 s.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from big_vit_lite import config, storage

OUT, TABLE = Path("results/plans.jsonl"), Path("docs/plans.md")


class Case(NamedTuple):
    """One run on one slice.

    Attributes:
        why: what the line is for, for the table.
    """

    config: str
    topology: str
    overrides: dict[str, Any] = {}
    why: str = ""


def _mesh(data: int, fsdp: int) -> dict[str, int]:
    return {"mesh.data": data, "mesh.fsdp": fsdp}


_VARIANT = "configs/vit_b16.py:variant="
_CLIP = "configs/clip_b32.py:variant="
_FULL = {"model.remat": "full", "text.remat": "full"}
TARGET = {"data.batch_size": 1024, "optim.mu_dtype": "float32", "model.remat": "dots"}
_SMALL = {"data.batch_size": 256, "mesh.data": 4}
CASES = (
    Case("configs/quickstart.py", "v5e-1", why="one chip"),
    Case("configs/cifar10.py", "v5e-1", {"model.image_size": 32, "model.classes": 10}, "one chip"),
    Case("configs/own_images.py", "v5e-1", why="one chip"),
    Case("configs/vit_s16.py", "v3-8", why="its paper's hardware"),
    Case("configs/vit_s16.py", "v5e-8"),
    Case("configs/vit_b16.py", "v5e-16"),
    Case("configs/vit_b16.py", "v5e-16", TARGET | _mesh(1, 16), "the memory target: 3.2 GiB"),
    Case("configs/vit_b16.py", "v4-32"),
    Case("configs/vit_b16.py", "2xv5e-16", why="two slices"),
    Case("configs/vit_b16.py", "v5e-4", _SMALL, "gradients summed in bfloat16"),
    Case("configs/vit_b16.py", "v5e-4", _SMALL | {"optim.grad_dtype": "float32"}),
    Case(f"{_VARIANT}L/16", "v5e-64", _mesh(4, 16)),
    Case(f"{_VARIANT}H/14", "v5e-64", _mesh(4, 16) | {"model.remat": "full"}),
    Case(f"{_VARIANT}H/14", "v4-128", _mesh(4, 16)),
    Case(f"{_VARIANT}G/14", "v5e-256", _mesh(8, 32)),
    Case(f"{_VARIANT}G/14", "v5e-64", _mesh(2, 32) | {"model.remat": "full"}, "fewer chips"),
    Case(f"{_VARIANT}G/14", "v3-1024", _mesh(32, 32), "the hardware of its time"),
    Case("configs/clip_quickstart.py", "v5e-1", why="one chip"),
    Case("configs/clip_emoji.py", "v5e-1", {"model.image_size": 48}, "one chip"),
    Case("configs/clip_flickr.py", "v5e-1", {"model.image_size": 64}, "one chip"),
    Case("configs/clip_b32.py", "v5e-128"),
    Case("configs/clip_b16.py", "v5e-256"),
    Case(f"{_CLIP}L/14", "v5e-256", _mesh(16, 16) | _FULL, "as many chips as its paper had V100"),
    Case("configs/siglip_b16.py", "v4-64", _FULL, "its paper's hardware"),
    Case("configs/coca_b32.py", "v5e-256"),
    Case("configs/lit_b16.py", "v5e-64", why="a locked image tower"),
)
OPTIONS = (
    config.Option("only", "TEXT", "Those shipped cases whose config or slice contains this."),
    config.Option("configs", "FILES", "Plan these configs, separated by spaces."),
    config.Option("topologies", "NAMES", "On these slices, separated by spaces."),
    config.Option("out", "FILE", f"Where rows go. Default {OUT}.", Path),
    config.Option("table", "FILE", f"Where the table goes. Default {TABLE}.", Path),
)


def main(argv: list[str]) -> None:
    told, faults = config.options_line(
        argv, program="python tools/plan.py", about=__doc__, options=OPTIONS
    )
    if faults:
        raise config.InputError("\n".join(map(str, faults)), faults)
    out, table = told.get("out", OUT), told.get("table", TABLE)
    rows = read(out)
    for case in chosen(told):
        if any(is_row_of(case, row) and not changed(row) for row in rows):
            continue
        row = plan(case)
        rows = [r for r in rows if not is_row_of(case, r, any_version=True)] + [row]
        out.parent.mkdir(parents=True, exist_ok=True)
        storage.replace(out, "".join(json.dumps(row) + "\n" for row in rows).encode())
        print(line(row), flush=True)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(document(in_order(rows)))
    print(f"{table}: {len(rows)} plans")


def chosen(told: dict[str, Any]) -> list[Case]:
    """The cases that the command line asks for.

    Raises:
        InputError: configs without topologies, or --only that fits nothing.
    """
    if ("configs" in told) != ("topologies" in told):
        raise config.InputError("--configs and --topologies go together.")
    if "configs" in told:
        slices = told["topologies"].split()
        return [Case(file, name) for file in told["configs"].split() for name in slices]
    text = told.get("only", "")
    cases = [case for case in CASES if text in f"{case.config} {case.topology}"]
    if not cases:
        known = ", ".join(sorted({f"{case.config} {case.topology}" for case in CASES}))
        raise config.InputError(f"--only {text} is in none of: {known}")
    return cases


def plan(case: Case) -> dict[str, Any]:
    """Compiles one case; a row of --out."""
    from big_vit_lite import parallel
    from big_vit_lite import plan as plans

    try:
        topology = plans.parse(case.topology)
    except ValueError as error:
        raise config.InputError(f"{case.topology} {error}") from None
    run = config.load(case.config, case.overrides)
    devices = plans.devices(topology)
    found = plans.make(run, parallel.make_mesh(run.mesh, devices), str(topology))
    return {
        "config": case.config,
        "overrides": case.overrides,
        "asked": case.topology,
        "versions": versions(),
        "run": compiled_part(run),
        **found.to_dict(),
    }


NOT_COMPILED = ("name", "seed", "steps", "epochs", "examples", "init", "init_rules", "init_layout",
                "init_known", "evals", "checkpoint", "report")  # fmt: skip
"""What a plan does not depend on: a run's length is but a number in its learning rates."""


def compiled_part(run: config.Run) -> dict[str, Any]:
    """What a plan is made from, as JSON has it: a row holds it, so that changes are seen."""
    values = json.loads(run.to_json())
    return {name: value for name, value in values.items() if name not in NOT_COMPILED}


def changed(row: dict[str, Any]) -> str:
    """How the config of a row differs from what the row was made from, for a sentence; "" if not.

    Fields that are younger than the row are compared with the row's by their defaults.
    """
    if "run" not in row:
        return "was made by a tool that did not write down from what"
    try:
        before = config.Run.from_json(json.dumps(row["run"]))
        now = config.load(row["config"], row["overrides"])
    except config.InputError as error:
        return f"cannot be compared: {error}"
    now = config.Run.from_json(json.dumps(compiled_part(now)))
    found = config.differences(before, now)
    return "; ".join(f"{key} was {a!r} and is {b!r}" for key, a, b in found)


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}


def is_row_of(case: Case, row: dict[str, Any], any_version: bool = False) -> bool:
    same = (row["config"], row["overrides"], row["asked"]) == case[:1] + (
        case.overrides,
        case.topology,
    )
    return same and (any_version or row["versions"] == versions())


def read(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(text) for text in file.read_text().splitlines()]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shipped cases first, as they stand above."""

    def place(row: dict[str, Any]) -> int:
        found = (i for i, case in enumerate(CASES) if is_row_of(case, row, any_version=True))
        return next(found, len(CASES))

    return sorted(rows, key=place)


HEADINGS = (
    "config", "on", "mesh", "batch", "remat", "state", "peak", "of", "all-gather", "all-reduce",
    "other", "floor, ms", "set by", "images/s a device", "MFU at most", "note",
)  # fmt: skip


def document(rows: list[dict[str, Any]]) -> str:
    """docs/plans.md: what the figures are, and the table."""
    made = ", ".join(sorted({f"jax {r['versions']['jax']}" for r in rows})) or "nothing"
    return f"""# Plans

What the training step of each shipped config takes, at its paper's batch size, on TPUs that were
not there: made by `python tools/plan.py` ({made}, libtpu from the package index) on a CPU-only
machine; every row with all its fields, and with the config that it was made from, is in
[results/plans.jsonl](../results/plans.jsonl). One row by hand:

    python -m big_vit_lite.train --config configs/vit_b16.py --dry_run --topology v5e-16

Memory is what the compiler assigns, per device (a chip; half a chip on v3): peak = arguments +
outputs - donated + temporaries, in GiB. Collectives are the bytes that a device receives in a
step, in MB. The floor is the longest of three times at the chip's published peaks: the model's
FLOPs (with the second forward pass of remat full), reads and writes of main memory as the compiled
program makes them, and the collectives' bytes over all links. No step is faster; none of these was
measured on a TPU. Where memory does not fit, `--dry_run` tries what would.

| {" | ".join(HEADINGS)} |
|{"---|" * len(HEADINGS)}
{chr(10).join(line(row) for row in rows)}
"""


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    axes = ", ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1)
    moved = {kind: total["bytes"] + total["network_bytes"]
             for kind, total in (row["collectives"] or {}).items()}  # fmt: skip
    known = ("all-gather", "all-reduce")
    other = sum(size for kind, size in moved.items() if kind not in known)
    settings = row["settings"]
    set_otherwise = [
        f"{key.split('.')[-1]} {value}"
        for key, value in row["overrides"].items()
        if not key.startswith(("mesh.", "data.batch_size", "model.remat"))
    ]
    name = row["config"].removeprefix("configs/")
    floor = row["roofline_s"]
    cells = [
        " ".join([f"`{name}`", *set_otherwise]),
        f"{row['asked']} ({row['devices']} devices)",
        axes or "-",
        f"{row['batch_size']:,}",
        settings["remat"],
        f"{row['state_bytes'] / 2**30:.2f}",
        f"{row['peak_bytes'] / 2**30:.2f}" + ("" if row["fits"] else " **does not fit**"),
        f"{row['limit_bytes'] / 2**30:.2f}",
        *(f"{moved.get(kind, 0) / 1e6:,.0f}" for kind in known),
        f"{other / 1e6:,.0f}",
        f"{floor * 1e3:.3g}" if floor else "-",
        row["dominates"] or "-",
        f"{row['images_per_s'] / row['devices']:,.0f}" if floor else "-",
        f"{100 * row['mfu']:.0f} %" if row["mfu"] else "-",
        next((case.why for case in CASES if is_row_of(case, row, any_version=True)), ""),
    ]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
