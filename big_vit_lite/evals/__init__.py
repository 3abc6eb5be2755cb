"""Evaluations: each runs over a finite stream, sees every example once, and returns numbers.

Each type is a module here, under the name that configs give it. Its `prepare(setting)` gives a
stream, and an object that measures: run(params, stream, predictions, skipped) -> {metric: number},
and `notes`, lines that the first measurement says.
"""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from big_vit_lite import config, data, parallel


class Setting(NamedTuple):
    """What one evaluation of a run is made from.

    Attributes:
        made: what evaluations share, such as compiled functions, by what it depends on.
    """

    name: str
    options: config.Eval
    run: config.Run
    task: Any
    mesh: Any
    class_names: tuple[str, ...]  # of the training data
    made: dict[Any, Any]

    @property
    def split(self) -> config.Split:
        """The examples to evaluate."""
        return self.options.data or self.run.data.val

    @property
    def where(self) -> str:
        """The split's section in the config."""
        return f"evals.{self.name}.data" if self.options.data else "data.val"

    @property
    def batch_size(self) -> int:
        return self.options.batch_size or self.run.data.batch_size

    def shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, once for all evaluations of the run with an equal `key`."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def shared_features(self) -> Any:
        """The two towers, compiled once for all evaluations."""
        from big_vit_lite.evals.features import Features

        return self.shared("features", lambda: Features(self.task, self.mesh))


class Scheduled(NamedTuple):
    """An evaluation of a run, with its data and its period."""

    name: str
    every: int
    stream: Any
    evaluation: Any
    predictions: bool
    skip_limit: int = 0

    def due(self, step: int, steps: int) -> bool:
        """Whether it runs after step `step` (a count of finished steps); always after the last."""
        return step == steps or step % self.every == 0


def build(run: config.Run, task, mesh, batches, steps: int) -> list[Scheduled]:
    """The evaluations of `run.evals`.

    Args:
        task: what is evaluated; see tasks. All types but classification want `text`;
            captions what captions.Compiled says, the others `encode_image` and `encode_text`, see
            features.Features.
        batches: the training stream: its class names are the ones that a classifier's labels must
            agree with.
        steps: length of the run.

    Raises:
        InputError: an evaluation without data, or with data that it cannot use.
    """
    scheduled, made = [], {}
    for name, options in run.evals.items():
        if options.type != "choices" and (options.data or run.data.val) is None:
            raise config.InputError(
                f"evals.{name}.data: neither it nor data.val is set; name the examples to evaluate."
            )
        setting = Setting(name, options, run, task, mesh, batches.class_names, made)
        module = importlib.import_module(f"{__name__}.{options.type}")
        stream, evaluation = module.prepare(setting)
        every = config.steps_of(options.every, run, batches.examples, steps)
        scheduled.append(
            Scheduled(name, every, stream, evaluation, options.predictions, run.data.skip_limit)
        )
    return scheduled


def check_classes(name: str, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raises InputError unless the class names agree, in order: labels are positions in them."""
    if tuple(found) == tuple(wanted):
        return
    strange = [c for c in found if c not in wanted] or [c for c in wanted if c not in found]
    what = (
        f"for example {strange[0]!r} is only in one of them" if strange else "their order differs"
    )
    raise config.InputError(
        f"evals.{name}.data has {len(found)} classes and data.train {len(wanted)}, and {what}; "
        "both must hold the same classes."
    )


def measure(
    scheduled: Scheduled,
    state: dict,
    step: int,
    predictions: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Metrics of one evaluation, of the raw weights and, where there are any, the averaged ones.

    Keys are NAME/top1 and NAME/ema/top1 and so on. With `predictions`, each example's outcome goes
    to NAME-STEP.jsonl (NAME-ema-STEP.jsonl) in that directory. Examples that cannot be used are
    named to `say`, and NAME/bad_examples counts them where there are any.

    Raises:
        RunError: more of them than `skip_limit`.
    """
    metrics = {}
    while parallel.is_first() and scheduled.evaluation.notes:
        say(scheduled.evaluation.notes.pop(0))
    for kind, prefix in (("params", scheduled.name), ("ema", f"{scheduled.name}/ema")):
        if kind not in state:
            continue
        file = None
        if predictions is not None and parallel.is_first():
            predictions.mkdir(parents=True, exist_ok=True)
            file = predictions / f"{prefix.replace('/', '-')}-{step}.jsonl"
        skips = data.Skips(scheduled.skip_limit, say if kind == "params" else lambda line: None)
        # Of several processes each knows its own rows; the limit holds for all of them together.
        own: list = []
        heard = own.extend if parallel.several() else functools.partial(skips.add, step=step)
        numbers = scheduled.evaluation.run(state[kind], scheduled.stream, file, heard)
        for found in parallel.gather("evaluated", own):
            skips.add([data.Skipped(*example) for example in found], step)
        if skips.names:
            numbers["bad_examples"] = len(skips.names)
        metrics |= {f"{prefix}/{key}": value for key, value in numbers.items()}
    return metrics
