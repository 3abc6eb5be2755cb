"""What a run says of itself: rows of metrics, checkpoints' words, lines of the log."""

import time
from typing import Any

import numpy as np

from big_vit_lite import assembly, config, models, optim, parallel, report


def train_row(parts, step: int, numbers: dict[str, float], skips) -> dict[str, Any]:
    """A row of metrics.jsonl about training itself."""
    examples = step * parts.run.data.batch_size
    return {
        **{f"train/{key}": value for key, value in numbers.items()},
        "train/examples": examples,
        "train/epoch": examples / parts.batches.examples,
        **({"train/bad_examples": len(skips.names)} if skips.names else {}),
        "memory/peak_bytes": report.memory_peak(),
    }


def run(parts, step: int, began: float, results: dict[str, float]) -> dict[str, Any]:
    """What a checkpoint says beside its arrays and the metrics of its own step."""
    return {
        "config": parts.run.to_json(),
        "seed": parts.run.seed,
        "examples_seen": step * parts.run.data.batch_size,
        "epoch_examples": parts.batches.examples,
        "class_names": list(parts.batches.class_names),
        "position_grid": getattr(models.image_tower(parts.model), "position_grid", None),
        **({"text": text(parts.task.text)} if parts.run.text is not None else {}),
        **teacher(getattr(parts.task, "teacher", None)),
        "wall_s": time.monotonic() - began,
        "results": {key: value for key, value in results.items() if np.isfinite(value)},
    }


def teacher(held) -> dict[str, Any]:
    """What a checkpoint says of the teacher that its run learns from, if it has one."""
    return {"teacher": {"path": held.path, "identity": held.identity}} if held else {}


def text(transform) -> dict[str, Any]:
    """What a checkpoint says of how its texts become tokens, beside the config's own words."""
    return {
        "transform": transform.text,
        "fingerprint": transform.fingerprint,
        "length": transform.length,
        "vocabulary": transform.vocab_size,
        "start_id": transform.start_id,
        "end_id": transform.end_id,
        "pad_id": transform.pad_id,
    }


def resume(
    last: int,
    steps: int,
    before: config.Run,
    now: config.Run,
    epochs: tuple[int | None, int | None] = (None, None),
) -> str:
    """Where a run goes on, and what of its config, and of the number of examples in an epoch before
    and now, is not as it was."""
    line = f"goes on from the checkpoint of step {last:,} of {steps:,}"
    if last >= steps:
        step = f"the checkpoint of step {last:,}"
        past = f"{step} is the last of {steps:,}" if last == steps else f"{step} is past {steps:,}"
        line = f"{past}: nothing is left to train"
    changed = config.changes(before, now)
    if None not in epochs and epochs[0] != epochs[1]:
        said = f"an epoch had {epochs[0]:,} examples and has {epochs[1]:,}: the order is another"
        changed = f"{changed}; {said}" if changed else said
    return f"{line}; changed since: {changed}" if changed else line


def mesh(mesh) -> str:
    """'8 x TPU v5 lite (data 2, fsdp 4)'."""
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    kind = mesh.devices.flat[0].device_kind
    return f"{mesh.size} x {kind}" + (f" ({axes})" if axes else "")


def pipeline(mesh: config.Mesh) -> str:
    """'pipeline: 4 stages, 16 micro-batches; a stage idles 16% of a step'."""
    stages, count = mesh.stage, config.microbatches(mesh)
    idle = models.bubble(stages, count)
    return f"pipeline: {stages} stages, {count} micro-batches; a stage idles {idle:.0%} of a step"


def data(parts) -> str:
    """'an epoch is 72 examples of 2 classes (cat, dog); val has 8'."""
    names = parts.batches.class_names
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    classes = f" of {len(names):,} classes ({shown})" if names else ""
    evaluated = "".join(f"; {e.name} has {e.stream.examples:,}" for e in parts.evaluations)
    return f"an epoch is {parts.batches.examples:,} examples{classes}{evaluated}"


def parameters(parts, training) -> str:
    """The table of parameters under their names in checkpoints, and what the state takes."""
    o, params = parts.run.optim, assembly.stored_form(parts, training.abstract["params"])
    lr = optim.multipliers(params, o.lr_rules, "optim.lr_rules")
    decay = optim.multipliers(params, o.decay_rules, "optim.decay_rules")
    memory = training.compiled.memory_analysis()
    state = parallel.shard_bytes(training.abstract) / 2**20
    temporary = memory.temp_size_in_bytes / 2**20
    table = report.parameter_table(params, lr, decay)
    return f"parameters\n{table}\nper device: state {state:,.1f} MiB, step {temporary:,.1f} MiB"
