"""Keeper: writes a run's checkpoints in background and decides which of them stay.

The order of a save is what makes it safe to kill at any moment: arrays (Orbax writes beside, then
renames), meta.json, manifest.json (the commit mark, by atomic rename), and only then the removal of
older checkpoints, each of which loses its own mark first. Steps are counts of finished steps.
"""

import difflib
import errno
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from big_vit_lite.checkpoint import arrays, manifest, meta, reading, tree
from big_vit_lite.config import InputError, RunError

log = logging.getLogger(__name__)
_LEFTOVER = re.compile(rf"\d+({re.escape(arrays.TEMPORARY)}.*)?")


class Keeper:
    """The checkpoints/ directory of one run, for the one process that trains it.

    Directories without a manifest, which a killed run left behind, are removed at the start. Use
    it as a context manager, or call `close`, so that the last save is finished and seen to be.

    Attributes:
        directory: holds one directory a checkpoint, named by its step.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 2,
        keep_every: int | None = None,
        keep_best: str | None = None,
        best_mode: Literal["max", "min"] = "max",
    ):
        """Opens or makes the directory.

        Args:
            directory: WORKDIR/checkpoints.
            keep: how many of the latest checkpoints stay.
            keep_every: those at multiples of this many steps stay for good.
            keep_best: the one best by this metric stays too; among equals the earliest.
            best_mode: whether the best is the highest or the lowest.

        Raises:
            InputError: if the directory cannot be made or written to.
        """
        self.directory = Path(directory).absolute()
        self._keep, self._keep_every = keep, keep_every
        self._keep_best, self._sign = keep_best, 1 if best_mode == "max" else -1
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: tuple[int, Future] | None = None
        self._own: set[int] = set()  # steps saved or restored by this run: its own timeline
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        except OSError as error:
            raise InputError(f"cannot write checkpoints to {self.directory}: {error}") from None

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.close()
        except RunError as failed:
            if error is None:
                raise
            error.add_note(str(failed))  # what ended the run matters more; this is told beside it

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the finished checkpoints, ascending."""
        return tuple(reading.committed(self.directory))

    @property
    def latest(self) -> int | None:
        """The step of the latest finished checkpoint, None when there is none."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step of the checkpoint best by `keep_best`, None when none has that metric."""
        return self._best(self.steps)

    def _best(self, steps: Iterable[int]) -> int | None:
        values = {
            step: reading.metrics_of(self.directory / str(step)).get(self._keep_best)
            for step in steps
        }
        known = {step: value for step, value in values.items() if value is not None}
        return max(known, key=lambda step: (self._sign * known[step], -step), default=None)

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Begins to save; on return the state may be donated. Waits for a save under way.

        A step that this run has saved, or was restored from, is not written again. Checkpoints of
        later steps, left by a run that went on from an earlier one, are removed when this one
        stands.

        Args:
            step: finished steps of the state.
            state: pytree of arrays, unrolled over depth; numpy arrays are copied.
            meta: what to store beside it, as JSON: config, seed, examples seen, wall seconds.
            metrics: what `keep_best` looks at.

        Raises:
            RunError: if the parameters or their average are not finite (nothing is written then,
                nothing removed), this save cannot begin, or the one before it failed.
        """
        self.wait()
        if step in self._own and step in self.steps:
            return
        if metrics and self._keep_best and self._keep_best not in metrics:
            near = difflib.get_close_matches(self._keep_best, metrics, n=1)
            log.warning(
                "checkpoint %d has no metric %s to be the best by%s",
                step, self._keep_best, f"; there is {near[0]}" if near else "",
            )  # fmt: skip
        leaves = tree.flatten(state)
        if bad := tree.not_finite(leaves):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise RunError(f"step {step} is not saved: NaN or inf in {bad[0]}{more}")
        given, measured = dict(meta), dict(metrics or {})
        target = self.directory / str(step)
        try:
            self._clear(step)
            response = arrays.start_saving(target, leaves)
        except Exception as error:
            raise self._failed(step, error) from error
        held = tree.listing(leaves)
        self._running = (
            step,
            self._worker.submit(self._finish, step, response, held, given, measured),
        )

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint, verified, into the structure and shardings of an abstract state.

        Args:
            abstract_state: ShapeDtypeStructs with shardings, unrolled over depth.
            step: which one; None: the latest.

        Returns:
            (state, meta).

        Raises:
            InputError: if there is none, it is damaged (saying which older one is whole), or it
                does not fit, listing how.
            RunError: if the save before failed.
        """
        self.wait()
        steps = self.steps
        if not steps or (step is not None and step not in steps):
            there = f"there are {', '.join(map(str, steps))}" if steps else "there is none"
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise InputError(f"{self.directory} holds {wanted}; {there}")
        step = steps[-1] if step is None else step
        state, stored = reading.load_state(self.directory / str(step), abstract_state)
        self._own = {s for s in steps if s <= step}
        return state, stored

    def wait(self) -> None:
        """Returns when no save is under way.

        Raises:
            RunError: if the last save failed, once.
        """
        if self._running is None:
            return
        (step, future), self._running = self._running, None
        try:
            future.result()
        except Exception as error:
            raise self._failed(step, error) from error
        self._own.add(step)

    def close(self) -> None:
        """Waits for the last save and ends the background thread.

        Raises:
            RunError: if the last save failed.
        """
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def _finish(self, step: int, response, held: tree.Listing, given: dict, metrics: dict) -> None:
        """The background part: waits for the arrays, commits, then lets go of older ones."""
        target = self.directory / str(step)
        try:
            response.result()
            meta.write(target, step, metrics, held, given)
            manifest.commit(target)
        except Exception:
            self._discard(step)  # a full disk needs the room at once
            raise
        for old in set(self.steps) - self._kept(step):
            self._remove(old)

    def _kept(self, newest: int) -> set[int]:
        """Which checkpoints stay now that `newest` stands."""
        steps = [step for step in self.steps if step <= newest]
        kept = set(steps[-self._keep :])
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        if self._keep_best:
            kept |= {self._best(steps)} - {None}
        return kept

    def _clear(self, step: int) -> None:
        """Makes room for a step that a failed save, or a future left behind, has in its place."""
        steps = self.steps
        if steps and self._own.isdisjoint(steps):
            raise RunError(
                f"{self.directory} holds checkpoints of another run (step {steps[-1]}); restore "
                "from it, remove it, or choose another --workdir"
            )
        if step in steps:
            manifest.revoke(self.directory / str(step))
        self._discard(step)

    def _remove(self, step: int) -> None:
        manifest.revoke(self.directory / str(step))
        shutil.rmtree(self.directory / str(step))

    def _discard(self, step: int) -> None:
        """Removes what there is of a step that has no manifest."""
        unfinished = list(self.directory.glob(f"{step}{arrays.TEMPORARY}*"))
        if not manifest.is_committed(self.directory / str(step)):
            unfinished.append(self.directory / str(step))
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for path in self.directory.iterdir():
            ours = path.is_dir() and _LEFTOVER.fullmatch(path.name)
            if ours and not manifest.is_committed(path):
                log.info("removing the unfinished checkpoint %s", path)
                shutil.rmtree(path)

    def _failed(self, step: int, error: BaseException) -> RunError:
        """The error of a save as one sentence."""
        if isinstance(error, RunError):
            return error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        last = self.latest
        kept = "no checkpoint stands" if last is None else f"step {last} still stands"
        if _is_full(error):
            reason = "the disk is full; make room and start again"
        return RunError(f"could not save step {step} to {self.directory}: {reason} ({kept})")


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk (or quota) is at the root of an error; Orbax keeps only the text."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
