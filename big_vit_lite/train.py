"""Trains a model: `python -m big_vit_lite.train --config configs/quickstart.py`.

Read this first. The way of a batch: config -> mesh -> stream (step -> one global array a key)
-> task.loss -> gradient -> optimiser -> new state; every so often evaluate, and save.
"""

import sys

from big_vit_lite.checkpoint import StopRequest
from big_vit_lite.exit_codes import STOPPED

if __name__ == "__main__":  # signals count before the imports below, which take seconds
    with StopRequest(at_start=STOPPED) as stop:
        from big_vit_lite import train

        sys.exit(train.main(stop=stop))

import contextlib
import datetime
import itertools
import time
from pathlib import Path
from typing import Any

import jax

from big_vit_lite import (
    agreement,
    assembly,
    checkpoint,
    checks,
    config,
    data,
    describe,
    evals,
    instruments,
    optim,
    parallel,
    plan,
    report,
    starting,
    storage,
)

FIRST_PATIENCE, EVALUATION_PATIENCE = 10.0, 10.0
"""What report.watchdog_s is multiplied by for the state, batch and step that a process begins with
(files are opened, devices meet for the first time) and for evaluations (many steps each)."""


def train(
    run: config.Run, workdir: str | storage.Place, stop: StopRequest | None = None
) -> tuple[dict[str, float], bool]:
    """Runs `run` in `workdir`, from the last checkpoint there if there is one.

    Args:
        stop: has been entered already, as a command does when it starts; None: one of its own.

    Returns:
        The metrics of the last evaluations, and whether a signal stopped the run before its end
        (its state is saved then).

    Raises:
        InputError: wrong input; RunError: the run failed.
    """
    began_at, workdir = time.time(), storage.place(workdir)
    parts = assembly.assemble(run)
    instruments.check_profile(parts)
    agreement.check_batch(run, parts.batches.sizes)
    abstract_params = assembly.abstract_params(parts)
    agreement.check_statistics(run, abstract_params)
    optimizer = optim.build(run, abstract_params, parts.steps, parts.batches.examples)
    with (
        instruments.watchdog(parts) as watchdog,
        StopRequest() if stop is None else contextlib.nullcontext(stop) as stop,
        instruments.keeper(parts, workdir) as keeper,
        instruments.log(parts, workdir) as log,
    ):
        last = parallel.by_first("latest", lambda: checkpoint.latest(keeper.directory))
        if last is not None:
            meta = checkpoint.read_meta(keeper.directory)
            before = config.Run.from_json(meta["config"])
            config.check_resume(before, run)
            agreement.check_class_names(run, parts.batches.class_names, meta)
            agreement.check_vocabulary(parts.task, meta, "the run in this workdir")
            agreement.check_teacher(run, parts.task, meta)
        elif run.init is not None:  # refused now rather than after compiling
            starting.check_init(run, parts.task)
            starting.check_init_fits(parts)
        else:
            agreement.check_new(run, "features" in parts.batches.spec)
        if parallel.is_first():
            storage.replace(workdir / "config.json", run.to_json().encode())
        if last is not None:
            epochs = meta.get("epoch_examples"), parts.batches.examples
            log.say(describe.resume(last, parts.steps, before, run, epochs))
            if last >= parts.steps and not meta.get("skipped"):
                checkpoint.verify(keeper.directory / str(last))
                draw_curve(run, workdir)  # it may have been killed before it did
                return dict(meta.get("results", {})), False
        log.say(f"{workdir}: {parts.steps:,} steps on {describe.mesh(parts.mesh)}; compiling")
        log.say(describe.data(parts))
        if run.mesh.stage > 1:
            log.say(describe.pipeline(run.mesh))
        began = time.monotonic()
        training = parallel.compile_training(
            parts.task,
            optimizer,
            parts.mesh,
            parts.batches.spec,
            run.seed,
            [earlier for earlier in assembly.earlier_tasks(parts) if earlier[0] > (last or 0)],
        )
        speed = {"speed/compile_s": time.monotonic() - began}
        log.say(f"compiled in {speed['speed/compile_s']:.1f} s")
        log.say(describe.parameters(parts, training))
        watchdog.expect("the state to start from", FIRST_PATIENCE)
        state, meta = first_state(parts, keeper, training, last, log, workdir)
        log.resume(int(state["step"]))
        with (
            report.Goodput(began_at, meta.get("goodput")) as goodput,
            watchdog.at_end("the last save and the logs to be finished"),
        ):
            stop.begin()
            results, stopped = loop(
                parts, state, training, keeper, log, watchdog, stop, meta, goodput, speed
            )
            log.say(goodput.describe())
        draw_curve(run, workdir)
    return results, stopped


def draw_curve(run: config.Run, workdir: storage.Place) -> None:
    if run.report.curve and parallel.is_first():
        report.curve(workdir)


def loop(
    parts, state, training, keeper, log, watchdog, stop, meta, goodput, speed
) -> tuple[dict[str, float], bool]:
    """Steps from the state's own to the last; returns as `train` does.

    `speed` is what the first row of training says beside its own numbers.
    """
    run, steps, first = parts.run, parts.steps, int(state["step"])
    save_every = instruments.period(parts, run.checkpoint.every)
    log_every = instruments.period(parts, run.report.every)
    began = time.monotonic() - meta.get("wall_s", 0.0)
    results = dict(meta.get("results", {}))
    watch = report.LossWatch(parts.batches, run.optim.skip_nonfinite, log.say, meta.get("left_out"))
    pace, flops = instruments.pace(parts), assembly.step_flops(parts)
    profile = instruments.profile(parts, log.workdir, training)
    skips = data.Skips(run.data.skip_limit, log.say, meta.get("bad_examples"))
    votes = parallel.Votes(parts.mesh)

    def evaluate(step: int, due: list[evals.Scheduled]) -> dict[str, float]:
        found = {}
        for evaluation in due:
            predictions = log.workdir / "predictions" if evaluation.predictions else None
            found |= evals.measure(evaluation, state, step, predictions, log.say)
        if found:
            log.row(step, found)
            results.update(found)
        return found

    # A signal does not wait for evaluations: those it skipped are made up for here.
    with pace.pause():
        watchdog.expect(f"the evaluations of step {first}", EVALUATION_PATIENCE)
        late = evaluate(first, [e for e in parts.evaluations if e.name in meta.get("skipped", ())])
        if late:
            keeper.judge(first, late)
    stopping, patience = False, FIRST_PATIENCE
    watchdog.expect("the data to be opened", patience)
    with profile, parts.batches.iterate(first, steps) as batches:
        for step in range(first + 1, steps + 1):
            keeper.poll()
            with pace.pause():
                profile.before(step, state)
            watchdog.expect(f"the batch of step {step}", patience)
            batch = next(batches)
            watchdog.expect(f"step {step}", patience)
            dispatched = time.perf_counter()
            with profile.step(step):
                state, metrics = training.at(step)(state, batch)
            goodput.step(dispatched, metrics)
            pace.step(batches.wait_s, flops(step))
            known = votes.add(step, bool(stop), batches.skipped)
            if step == first + 1:
                jax.block_until_ready(metrics)
                log.say(f"step {step} done")
                patience = 1.0
            # Asked once a step: a signal that comes later is for the next one.
            stopping = votes.stop and step < steps
            planned = step == steps or bool(save_every and step % save_every == 0)
            due = evaluations_due(parts, step, planned)
            skipped = [e.name for e in due] if stopping else []
            save = stopping or planned
            for said_at, skipped_then in known + (votes.flush() if save else []):
                skips.add([data.Skipped(*example) for example in skipped_then], said_at)
            # Nothing is evaluated or saved before all updates so far have been seen to be finite.
            for finished, numbers in watch.add(step, metrics, wait=bool(due or save)):
                log.progress(finished)
                if finished % log_every == 0 or finished in (1, steps):
                    speed |= pace.read() | goodput.read()
                    log.row(finished, describe.train_row(parts, finished, numbers, skips) | speed)
                    speed = {}
            with pace.pause():
                if due:
                    watchdog.expect(f"the evaluations of step {step}", EVALUATION_PATIENCE)
                found = {} if skipped else evaluate(step, due)
                if save:
                    watchdog.expect(f"the save of step {step}")
                    log.flush()  # a checkpoint never knows of steps that metrics.jsonl does not
                    said = describe.run(parts, step, began, results) | {
                        "skipped": skipped,
                        "bad_examples": skips.to_dict(),
                        "left_out": watch.left_out,
                        "goodput": goodput.to_dict(),
                    }
                    keeper.save(step, assembly.to_stored(parts, state), said, found)
            if stopping:
                break
    return results, stopping


def first_state(parts, keeper, training, last: int | None, log, workdir) -> tuple[dict, dict]:
    """The state to start from, and what its checkpoint says: that of step `last`, from run.init, or
    new. WORKDIR/init.txt names each array that run.init gave or left."""
    if last is not None:
        kept = {k: x for k, x in training.abstract.items() if k != parallel.TEACHER}
        state, meta = keeper.restore(assembly.stored_form(parts, kept), last)
        shardings = jax.tree.map(lambda x: x.sharding, kept)
        state = jax.device_put(assembly.from_stored(parts, state), shardings)
        return assembly.with_teacher(parts, state, training), meta
    if parts.run.init is None:
        return assembly.with_teacher(parts, training.init(), training), {}
    start = starting.init_params(parts, training.abstract["params"])
    log.say(f"{start.told}; each by name in {workdir / 'init.txt'}")
    if parallel.is_first():
        storage.replace(workdir / "init.txt", start.by_leaf.encode())
    if "features" in parts.batches.spec:
        agreement.check_features(parts.run, starting.image_leaves(parts, start.params))
    return assembly.with_teacher(parts, training.init(start.params), training), {}


def evaluations_due(parts, step: int, saved: bool) -> list[evals.Scheduled]:
    """What is measured after a step: a checkpoint is never without what keep_best judges it by."""
    best = parts.run.checkpoint.keep_best
    judge = best.partition("/")[0] if best and saved else None
    return [e for e in parts.evaluations if e.name == judge or e.due(step, parts.steps)]


def dated_folder(run: config.Run) -> Path:
    """Makes runs/NAME-DATE-TIME, with a number behind it where that exists."""
    now = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    for number in itertools.count(1):
        folder = Path("runs") / f"{run.name or 'run'}-{now}{f'-{number}' if number > 1 else ''}"
        try:
            folder.mkdir(parents=True)  # fails if another process made it a moment ago
            return folder
        except FileExistsError:
            continue


def main(argv: list[str] | None = None, stop: StopRequest | None = None) -> int:
    """The command; `stop` as for `train`.

    Returns:
        Its exit code. 0: done; 1: the run failed; 2: wrong input; 3: a signal stopped it, and what
        there was to save is saved; 4: another process of the run ended, or did not come. After 3
        and 4 the same command goes on.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "--dry_run" in argv:
        return config.exit_code(plan.main, argv)

    def begin(extras: dict[str, Any]) -> None:
        for name in ("topology", "json"):
            if name in extras:
                raise config.InputError(f"--{name} goes with --dry_run, which trains nothing.")
        parallel.join(extras)

    def command() -> int:
        line = config.command_line(
            argv,
            program="python -m big_vit_lite.train",
            about="Trains a model; goes on with the run that --workdir holds, if any.",
            options=(report.PROFILE, *parallel.OPTIONS, *plan.OPTIONS),
            checks=(*checks.STATIC, checks.devices(assembly.count_devices)),
            begin=begin,
        )
        workdir = line.workdir or Path(
            parallel.by_first("workdir", lambda: str(dated_folder(line.run)))
        )
        run = line.run
        if "profile" in line.extras:
            traced = run.report.model_copy(update={"profile": line.extras["profile"]})
            run = run.model_copy(update={"report": traced})
        results, stopped = train(run, workdir, stop)
        if not parallel.is_first():
            return STOPPED if stopped else 0
        for key, value in results.items():
            print(f"{key} {value:.6g}")
        print(f"{'stopped and saved' if stopped else 'done'}: {workdir}")
        return STOPPED if stopped else 0

    return parallel.ending(command)
