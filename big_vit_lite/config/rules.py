"""What several fields of a run must say together, as far as the config alone can tell."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction

from big_vit_lite.config.durations import amount
from big_vit_lite.config.errors import Fault
from big_vit_lite.config.fields import closest
from big_vit_lite.config.schema import Eval, Mesh, Run, Split

_LENGTHS = ("steps", "epochs", "examples")
_RESERVED = ("train", "speed", "data")
"""First words of metrics that are not evaluations."""
_RANKS = ("r1", "r5", "r10", "median_rank", "mean_rank")
METRICS = {
    "classification": ("top1", "top5", "loss"),
    "zero_shot": ("top1", "top5", "mean_per_class"),
    "retrieval": tuple(f"{way}/{n}" for way in ("image_to_text", "text_to_image") for n in _RANKS),
    "choices": ("accuracy", "text", "image", "group"),
    "captions": ("nll", "perplexity", "exact"),
}
"""Metrics of each type of evaluation; of choices each category has them, too, and exact is there
where captions are written: with predictions."""
_LOWEST_IS_BEST = ("loss", "nll", "perplexity", "median_rank", "mean_rank")
_WITHOUT_CAPTIONS = ("digits", "folder", "synthetic")
_OF_TYPE = {
    "prompts": "zero_shot",
    "class_names": "zero_shot",
    "file": "choices",
    "images": "choices",
    "transform": "choices",
    "beams": "captions",
}
"""Fields of an evaluation that have a meaning for one type."""


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
        _length, _phases, _batch, _task, _two_towers, _mixing, _channels, _sources, _evals,
        _tokens, _mesh, _report,
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


def _evals(run: Run) -> Iterator[Fault]:
    for name, evaluation in run.evals.items():
        if not re.fullmatch(r"\w[\w.-]*", name) or name in _RESERVED:
            taken = f"no name for an evaluation; {', '.join(_RESERVED)} name other metrics"
            yield Fault(f"evals.{name}", taken)
        yield from _eval_type(run, f"evals.{name}", evaluation)
        if evaluation.type == "choices":
            yield from _choices(run, f"evals.{name}", evaluation)
        elif evaluation.data is None and run.data.val is None:
            wanted = "is missing, and so is data.val, which would stand in"
            yield Fault(f"evals.{name}.data", wanted, depends=("data.val",))
    best = run.checkpoint.keep_best
    if best is not None and not _is_metric(run, best):
        known = [f"{name}/{m}" for name, e in run.evals.items() for m in METRICS[e.type]]
        known = [key for key in known if _is_metric(run, key)]
        hint = closest(best, known) or (f"; such as {known[0]}" if known else "; evals is empty")
        wanted = f"wants a metric of an evaluation{hint}"
        yield Fault("checkpoint.keep_best", wanted, best, ("evals",))
    if best is not None:
        mode = "min" if best.split("/")[-1] in _LOWEST_IS_BEST else "max"
        if run.checkpoint.best_mode != mode:
            wanted = f"is {mode} for {best}, or the worst checkpoint would be kept as the best"
            yield Fault(
                "checkpoint.best_mode", wanted, run.checkpoint.best_mode, ("checkpoint.keep_best",)
            )


def _eval_type(run: Run, key: str, evaluation: Eval) -> Iterator[Fault]:
    kind, task = evaluation.type, run.task.name
    if (kind == "classification") != (task == "classification"):
        wanted = f"does not fit task.name {task}, which "
        wanted += "has no text tower" if task == "classification" else "learns no classes"
        wanted += "; use classification" if task == "classification" else "; use zero_shot"
        yield Fault(f"{key}.type", wanted, kind, ("task.name",))
    elif kind == "captions" and task != "coca":
        wanted = f"does not fit task.name {task}, which has no caption decoder; use retrieval, or "
        wanted += "set task.name=coca"
        yield Fault(f"{key}.type", wanted, kind, ("task.name",))
    for name, owner in _OF_TYPE.items():
        value = getattr(evaluation, name)
        if kind != owner and value != type(evaluation).model_fields[name].default:
            wanted = f"has a meaning only where {key}.type is {owner}; leave it out"
            yield Fault(f"{key}.{name}", wanted, value, (f"{key}.type",))
    split, split_key = evaluation.data or run.data.val, f"{key}.data"
    reads = {"retrieval": "find", "captions": "predict"}.get(kind)
    if reads and split is not None and split.source in _WITHOUT_CAPTIONS:
        split_key = split_key if evaluation.data else "data.val"
        wanted = f"has no captions to {reads}; use table, tar, parquet, arrayrecord or tfds"
        yield Fault(f"{split_key}.source", wanted, split.source, (f"{key}.type",))


def _choices(run: Run, key: str, evaluation: Eval) -> Iterator[Fault]:
    if evaluation.file is None:
        wanted = "is missing; type choices wants the JSON file of the choices, or a folder of them"
        yield Fault(f"{key}.file", wanted, depends=(f"{key}.type",))
    if evaluation.data is not None:
        wanted = "has no meaning where the type is choices: file and images say what is read"
        yield Fault(f"{key}.data", wanted, depends=(f"{key}.type",))
    if evaluation.transform is None and run.data.val is None:
        wanted = "is missing, and so is data.val, whose transform would stand in"
        yield Fault(f"{key}.transform", wanted, depends=("data.val",))


def _is_metric(run: Run, key: str) -> bool:
    """Whether an evaluation gives a metric of this name, of raw or of averaged weights."""
    name, _, metric = key.partition("/")
    if name not in run.evals:
        return False
    kind, metric = run.evals[name].type, metric.removeprefix("ema/")
    if metric == "exact" and not run.evals[name].predictions:
        return False
    return metric in METRICS[kind] or (
        kind == "choices" and metric.rsplit("/", 1)[-1] in METRICS[kind]
    )


def _tokens(run: Run) -> Iterator[Fault]:
    model = run.model
    if model.pool == "none" and run.task.name == "classification":
        wanted = "task classification wants one vector an image; pool cls, gap or map"
        yield Fault("model.pool", wanted, "none", ("task.name",))
    if model.pool == "cls" and model.class_token is False:
        wanted = "pool cls needs the class token; leave it none, or pool otherwise"
        yield Fault("model.class_token", wanted, False, ("model.pool",))
    if model.variant.startswith("RN") and run.task.name == "classification":
        wanted = "ResNets are image towers beside a text tower; task classification wants a ViT"
        yield Fault("model.variant", wanted, model.variant, ("task.name",))


def mesh_sizes(mesh: Mesh) -> dict[str, int]:
    """Mesh axes and their sizes; sequence and stage only where they are set."""
    sizes = mesh.model_dump(exclude={"microbatches"})
    return {k: n for k, n in sizes.items() if n != 1 or k not in ("sequence", "stage")}


def microbatches(mesh: Mesh) -> int:
    """Parts of a batch in a pipeline; 1 without one."""
    return 1 if mesh.stage == 1 else mesh.microbatches or 4 * mesh.stage


def _mesh(run: Run) -> Iterator[Fault]:
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


def _report(run: Run) -> Iterator[Fault]:
    if run.report.profile is not None and run.report.profile[0] >= run.report.profile[1]:
        yield Fault("report.profile", "wants (first, end) with first < end", run.report.profile)


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
