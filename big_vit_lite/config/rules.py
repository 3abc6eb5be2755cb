"""What several fields of a run must say together, as far as the config alone can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from big_vit_lite.config.durations import amount
from big_vit_lite.config.errors import Fault
from big_vit_lite.config.rules_evals import check_evals
from big_vit_lite.config.rules_mesh import check_mesh
from big_vit_lite.config.schema import Run, Split

_LENGTHS = ("steps", "epochs", "examples")


def splits(run: Run) -> Iterator[tuple[str, Split]]:
    """Every split with its key: data.train, data.mix.NAME, data.val, evals.NAME.data."""
    yield "data.train", run.data.train
    for name, split in run.data.mix.items():
        yield f"data.mix.{name}", split
    if run.data.val is not None:
        yield "data.val", run.data.val
    for name, evaluation in run.evals.items():
        if evaluation.data is not None:
            yield f"evals.{name}.data", evaluation.data


def check(run: Run) -> Iterator[Fault]:
    """All findings of this file."""
    for part in (
        _length, _phases, _batch, _task, _two_towers, _mixing, _channels, _sources, check_evals,
        _tokens, check_mesh, _report,
    ):  # fmt: skip
        yield from part(run)


def _length(run: Run) -> Iterator[Fault]:
    given = [name for name in _LENGTHS if getattr(run, name) is not None]
    if not given:
        yield Fault(
            "steps",
            "is missing; give one of steps, epochs, examples",
            depends=("epochs", "examples"),
        )
    for name in given[1:]:
        wanted = f"{given[0]} = {getattr(run, given[0])} sets the length already; keep one of them"
        yield Fault(name, wanted, getattr(run, name), depends=(given[0],))


def share(duration: int | str, run: Run) -> Fraction | None:
    """A duration as a share of the run, None where that needs the size of the data."""
    text = str(duration)
    number = amount(duration)
    batch = run.data.batch_size
    if text.endswith("%"):
        return number / 100
    if number == 0:
        return number
    if text.endswith("epochs"):
        return None if run.epochs is None else number / Fraction(str(run.epochs))
    if run.epochs is not None:
        return None
    total = run.steps if run.steps is not None else math.ceil(Fraction(run.examples or 0, batch))
    steps = math.ceil(number / batch) if text.endswith("examples") else number
    return steps / Fraction(total) if total else None


def _phases(run: Run) -> Iterator[Fault]:
    if sum(getattr(run, name) is not None for name in _LENGTHS) != 1:
        return
    lengths = {name: share(getattr(run.optim, name), run) for name in ("warmup", "cooldown")}
    if sum(length or 0 for length in lengths.values()) > 1:
        depends = ("data.batch_size", *_LENGTHS, "optim.cooldown")
        shares = " and ".join(
            f"{name} takes {float(100 * length):.4g}%" for name, length in lengths.items() if length
        )
        wanted = f"{shares} of the run, more than all of it; shorten it or train longer"
        yield Fault("optim.warmup", wanted, run.optim.warmup, depends)


def _batch(run: Run) -> Iterator[Fault]:
    size, parts = run.data.batch_size, run.optim.accumulate
    if size % parts:
        wanted = f"must divide data.batch_size = {size}"
        yield Fault("optim.accumulate", wanted, parts, ("data.batch_size",))


_TASKS_OF = {
    "mixup": ("classification",),
    "cutmix": ("classification",),
    "cutmix_share": ("classification",),
    "form": ("contrastive", "coca"),
    "chunk": ("contrastive", "coca"),
    "hardness": ("contrastive", "coca"),
    "semi_hard": ("contrastive", "coca"),
    "teacher": ("contrastive", "coca"),
    "teacher_weight": ("contrastive", "coca"),
    "contrastive_weight": ("coca",),
    "caption_weight": ("coca",),
}
"""Fields of the section task that mean something for some tasks only."""


def _task(run: Run) -> Iterator[Fault]:
    task = run.task
    for name, tasks in _TASKS_OF.items():
        value, default = getattr(task, name), type(task).model_fields[name].default
        if value != default and task.name not in tasks:
            wanted = f"has a meaning for task {' and '.join(tasks)} only"
            yield Fault(f"task.{name}", wanted, value, ("task.name",))
    if task.hardness and task.semi_hard is not None:
        wanted = "chooses negatives, and so does task.hardness; give one of them"
        yield Fault("task.semi_hard", wanted, task.semi_hard, ("task.hardness",))
    shares = [share(until, run) for until, _ in task.progressive]
    known = [x for x in shares if x is not None]
    if len(known) == len(shares) and known != sorted(set(known)):
        wanted = "wants each point of the run after the one before it"
        yield Fault("task.progressive", wanted, task.progressive)


def _two_towers(run: Run) -> Iterator[Fault]:
    """What contrastive tasks want of the other sections, and what only they want."""
    task = run.task
    paired = task.name != "classification"
    for key, split in splits(run) if paired else ():
        if split.repeats > 1 and key.startswith(("data.train", "data.mix.")):
            wanted = "puts a pair into a batch several times, each as a wrong answer to itself; "
            wanted += f"leave it at 1 for task {task.name}"
            yield Fault(f"{key}.repeats", wanted, split.repeats, ("task.name",))
    if paired and run.text is None:
        wanted = f"is missing; task {task.name} wants a text tower, such as text.variant=M"
        yield Fault("text", wanted, depends=("task.name",))
    if not paired and run.text is not None:
        wanted = "has no use in task classification; take it away, or set task.name=contrastive"
        yield Fault("text", wanted, depends=("task.name",))
    if task.name == "coca" and run.decoder is None:
        wanted = "is missing; task coca wants a caption decoder, such as decoder.queries=256"
        yield Fault("decoder", wanted, depends=("task.name",))
    if task.name == "coca" and run.text is not None and run.text.pad_id is None:
        wanted = (
            "is missing; task coca predicts no padding: give the id with which data.train.text "
        )
        wanted += "pads, 0 for CLIP's vocabulary"
        yield Fault("text.pad_id", wanted, depends=("task.name",))
    if task.name == "coca":
        for name in ("projections", "projection_bias"):
            value, default = getattr(run.joint, name), type(run.joint).model_fields[name].default
            if value != default:
                wanted = f"must be {default} in task coca, whose towers are both projected"
                yield Fault(f"joint.{name}", wanted, value, ("task.name",))
    if task.name != "coca" and run.decoder is not None:
        wanted = f"has no use in task {task.name}; take it away, or set task.name=coca"
        yield Fault("decoder", wanted, depends=("task.name",))
    if not paired:
        return
    if task.loss == "sigmoid" and task.label_smoothing:
        wanted = "is for task.loss softmax; sigmoid has no distribution to smooth"
        yield Fault("task.label_smoothing", wanted, task.label_smoothing, ("task.loss",))
    if task.loss == "sigmoid" and run.joint.logit_bias is None:
        wanted = "is missing; task.loss sigmoid wants one: -10 as SigLIP has it, or 0"
        yield Fault("joint.logit_bias", wanted, depends=("task.loss",))
    if run.model.classes is not None:
        wanted = f"has no use in task {task.name}, whose images have features; see joint.features"
        yield Fault("model.classes", wanted, run.model.classes, ("task.name",))
    if run.model.batch_norm == "batch" and run.optim.accumulate > 1:
        wanted = "must be 1: model.batch_norm batch takes the statistics of the whole batch"
        yield Fault("optim.accumulate", wanted, run.optim.accumulate, ("model.batch_norm",))
    for key, split in splits(run):
        if not split.text and key.startswith(("data.train", "data.mix")):
            wanted = f"is missing; task {task.name} learns from captions: \"tokenize('clip')|"
            wanted += 'truncate(77)|pad(77)" for CLIP'
            yield Fault(f"{key}.text", wanted, depends=("task.name",))
        if key.startswith(("data.val", "evals.")) and split.text not in ("", run.data.train.text):
            wanted = "is not read: evaluations make tokens as data.train.text does; leave it out"
            yield Fault(f"{key}.text", wanted, split.text, ("data.train.text", "task.name"))


def _mixing(run: Run) -> Iterator[Fault]:
    task = run.task
    on = [name for name in ("mixup", "cutmix") if getattr(task, name) > 0]
    default = type(task).model_fields["cutmix_share"].default
    if len(on) < 2 and task.cutmix_share != default:
        wanted = "has a meaning only where task.mixup and task.cutmix are both above 0"
        depends = ("task.mixup", "task.cutmix")
        yield Fault("task.cutmix_share", wanted, task.cutmix_share, depends)
    if on and run.data.batch_size == 1:
        wanted = "mixes pairs of images, and data.batch_size is 1"
        yield Fault(f"task.{on[0]}", wanted, getattr(task, on[0]), ("data.batch_size",))


def _channels(run: Run) -> Iterator[Fault]:
    channels = run.model.channels
    for name in ("mean", "std"):
        values = getattr(run.data, name)
        if len(values) not in (1, channels):
            each = f", or {channels}: one for each channel" if channels > 1 else ""
            wanted = f"wants one number{each}; model.channels is {channels}"
            yield Fault(f"data.{name}", wanted, values, ("model.channels",))


def _sources(run: Run) -> Iterator[Fault]:
    for key, split in splits(run):
        if split.source in ("folder", "parquet") and not split.path:
            wanted = f"is missing; source {split.source} wants the folder that holds the files"
            yield Fault(f"{key}.path", wanted, depends=(f"{key}.source",))


def _tokens(run: Run) -> Iterator[Fault]:
    model = run.model
    if model.pool == "none" and run.task.name == "classification":
        wanted = "task classification wants one vector an image; pool cls, gap or map"
        yield Fault("model.pool", wanted, "none", ("task.name",))
    if model.pool in ("cls", "cls_gap") and model.class_token is False:
        wanted = f"pool {model.pool} needs the class token; leave it none, or pool otherwise"
        yield Fault("model.class_token", wanted, False, ("model.pool",))
    if model.max_patches is not None:
        wanted = "is for published weights that are loaded; training takes images of one size: "
        wanted += "leave it none"
        yield Fault("model.max_patches", wanted, model.max_patches)
    if model.variant.startswith("RN") and run.task.name == "classification":
        wanted = "ResNets are image towers beside a text tower; task classification wants a ViT"
        yield Fault("model.variant", wanted, model.variant, ("task.name",))


def _report(run: Run) -> Iterator[Fault]:
    if run.report.profile is not None and run.report.profile[0] >= run.report.profile[1]:
        yield Fault("report.profile", "wants (first, end) with first < end", run.report.profile)
