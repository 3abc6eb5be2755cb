"""Evaluates a checkpoint: `python -m big_vit_lite.evaluate --config FILE --checkpoint DIR`.

Gives the numbers that the training run printed: the same evaluations, on the same parameters.
"""

import json
import sys

from big_vit_lite import (
    agreement,
    assembly,
    checkpoint,
    checks,
    config,
    evals,
    parallel,
    plan,
    storage,
    weights,
)
from big_vit_lite.config.errors import show
from big_vit_lite.data import files

OPTIONS = (
    config.Option(
        "checkpoint",
        "DIR",
        "What to evaluate: a run's --workdir or its checkpoints/ (the latest is taken), or one "
        "step's directory in it.",
        required=True,
    ),
    config.Option(
        "predictions",
        "DIR",
        "Takes a file of predictions for each evaluation, one JSON object an example: of a "
        "classifier index, name, label, loss and the best classes with their probabilities; "
        "docs/evaluation.md has the others.",
        type=storage.place,
    ),
    *parallel.OPTIONS,
)


def evaluate(
    run: config.Run, directory: str | storage.Place, predictions: storage.Place | None = None
) -> dict[str, float]:
    """All evaluations of `run` on a checkpoint's parameters, and on its averaged ones if any.

    Returns:
        {"step": ..., "val/top1": ...} as metrics.jsonl has them.

    Raises:
        InputError: wrong input, or a checkpoint that does not fit the config's model.
    """
    path = checkpoint.find(directory)
    said = checkpoint.read_meta(path)
    # A teacher is for training, and need not be here.
    run = run.model_copy(update={"task": run.task.model_copy(update={"teacher": None})})
    parts = assembly.assemble(run, None if checks.trains_here(run) else _unread(run, said))
    if not parts.evaluations:
        raise config.InputError(
            "evals is empty: name an evaluation, as in --config.evals.val.every=1"
        )
    if predictions is not None and parallel.is_first():
        try:  # now, not after the first evaluation
            predictions.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise config.InputError(
                f"--predictions: {predictions} can be made no folder ({files.why(error)})"
            ) from error
    stored = assembly.stored_form(parts, assembly.abstract_params(parts))
    trained = config.Run.from_json(said["config"], f"{path}/meta.json")
    with weights.naming_fields(run, trained):
        params, meta = checkpoint.load_params(path, stored)
    agreement.check_class_names(run, parts.batches.class_names, meta)
    check_same_function(trained, run)
    agreement.check_vocabulary(parts.task, meta)
    state = {"params": assembly.from_stored(parts, params)}
    if any(name.startswith("ema/") for name in meta["arrays"]):
        ema, _ = checkpoint.load_params(path, stored, which="ema")
        state["ema"] = assembly.from_stored(parts, ema)
    metrics = {"step": meta["step"]}
    say = print if parallel.is_first() else lambda line: None
    for scheduled in parts.evaluations:
        metrics |= evals.measure(scheduled, state, meta["step"], predictions, say)
    return metrics


def _unread(run: config.Run, said: dict) -> plan.Batches:
    """What stands for data.train where its files are not here: sizes as the config has them,
    classes as the checkpoint does."""
    if parallel.is_first():
        print("data.train is not here: its classes are the checkpoint's", file=sys.stderr)
    parallel.start(run.deterministic)
    made = plan.unread(run, parallel.make_mesh(run.mesh))
    return made._replace(class_names=tuple(said["class_names"]))


def check_same_function(trained: config.Run, run: config.Run) -> None:
    """Raises InputError if parameters would mean something else here than when they were trained.

    Other images, sizes and precisions may be evaluated; another activation, or pixels normalised
    otherwise, fits the same shapes and gives plausible wrong numbers.
    """
    free = (
        *("scan", "remat", "attention", "dtype", "image_size", "position_resample", "classes"),
        *("batch_norm", "dropout", "depth", "length", "logit_scale", "logit_bias", "init", "_std"),
    )
    wrong = [
        config.Fault(key, f"the checkpoint was trained with {show(old)}; set it back", new)
        for key, old, new in config.differences(trained, run)
        if key in ("data.mean", "data.std", "task.loss", "task.name", "data.train.text", "text")
        or (key.startswith(("model.", "text.", "joint.", "decoder.")) and not key.endswith(free))
    ]
    if wrong:
        raise config.InputError("\n".join(map(str, wrong)), wrong)


def main(argv: list[str] | None = None) -> int:
    """The command; prints a line a metric, and all of them as JSON into --workdir if given."""

    def command() -> int:
        line = config.command_line(
            sys.argv[1:] if argv is None else argv,
            program="python -m big_vit_lite.evaluate",
            about="Evaluates a checkpoint.",
            options=OPTIONS,
            checks=(*checks.EVALUATION, checks.devices(assembly.count_devices)),
            begin=parallel.join,
        )
        metrics = evaluate(line.run, line.extras["checkpoint"], line.extras.get("predictions"))
        if not parallel.is_first():
            return 0
        for key, value in metrics.items():
            print(f"{key} {value:.6g}")
        if line.workdir is not None:
            line.workdir.mkdir(parents=True, exist_ok=True)
            text = json.dumps(metrics, indent=1) + "\n"
            storage.replace(line.workdir / "evaluation.json", text.encode())
        return 0

    return parallel.ending(command)


if __name__ == "__main__":
    sys.exit(main())
