"""What evaluations of a run must say together with its task, and which metrics they give."""

from __future__ import annotations

import re
from collections.abc import Iterator

from big_vit_lite.config.errors import Fault
from big_vit_lite.config.fields import closest
from big_vit_lite.config.schema import Eval, Run

_RESERVED = ("train", "speed", "data", "memory")
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


def check_evals(run: Run) -> Iterator[Fault]:
    """Faults of the section evals, and of checkpoint.keep_best, which names a metric of it."""
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
