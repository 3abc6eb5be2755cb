"""What a run is saved, logged, watched and measured with, opened as its config says.

The argument `parts` is what `assembly.assemble` makes of the config.
"""

import jax

from big_vit_lite import checkpoint, config, parallel, report, storage


def period(parts, duration) -> int | None:
    """A duration of the config in steps; None stays None."""
    if duration is None:
        return None
    return max(1, config.steps_of(duration, parts.run, parts.batches.examples, parts.steps))


def keeper(parts, workdir: storage.Place):
    """The checkpoints of a run."""
    c = parts.run.checkpoint
    return checkpoint.Keeper(
        workdir / "checkpoints", c.keep, period(parts, c.keep_every), c.keep_best, c.best_mode
    )


def log(parts, workdir: storage.Place):
    """Where the numbers of a run go: the first process's part, of which the others have none."""
    r = parts.run.report
    if not parallel.is_first():
        return report.Silent(workdir)
    return report.open(
        workdir, parts.steps, r.tensorboard, r.wandb, parts.run.name, parts.run.to_dict()
    )


def watchdog(parts):
    """What tells of a run that stands still, in every process of it."""
    name = f" of process {jax.process_index()}" if parallel.several() else ""
    return report.Watchdog(parts.run.report.watchdog_s, name)


def profile(parts, workdir: storage.Place, training):
    """What traces steps; processes that share a host would write to the same files of a folder."""
    folder = workdir / "profile"
    if parallel.several():
        folder = folder / f"process_{jax.process_index()}"
    return report.Profile(parts.run.report.profile, folder, training.at)


def check_profile(parts) -> None:
    """Raises InputError if the steps to be traced come after the last one."""
    wanted = parts.run.report.profile
    if wanted is not None and wanted[0] >= parts.steps:
        raise config.InputError(
            f"report.profile asks for steps {wanted[0]:,} to {wanted[1]:,}, counted from 0, and "
            f"the run has {parts.steps:,}: nothing would be traced."
        )


def pace(parts):
    """The speedometer of a run."""
    return report.Pace(
        parts.run.data.batch_size,
        parts.mesh.size,
        report.peak_flops(parts.mesh.devices.flat[0]),
    )
