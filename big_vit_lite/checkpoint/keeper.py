"""Keeper: writes a run's checkpoints in background and decides which of them stay.

The order of a save is what makes it safe to kill at any moment: arrays (Orbax writes beside, then
renames), meta.json, manifest.json (the commit mark, which is there at once), and only then the
removal of older checkpoints, each of which loses its own mark first. On an object store arrays are
written in place: they count no sooner. Steps are counts of finished steps.

With several processes each writes the arrays on its devices; all else on the disk is done by the
first, whose word on it holds for all. No process is ahead of the others by more than one call.
"""

import contextlib
import difflib
import errno
import logging
from collections.abc import Iterable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from big_vit_lite import storage
from big_vit_lite.checkpoint import arrays, best, folder, lease, manifest, meta, reading, tree
from big_vit_lite.config import InputError, RunError
from big_vit_lite.parallel import by_first, gather, is_first, is_shared, several
from big_vit_lite.storage import Place

SHARED_SECONDS = 3  # how long a save under way has after a computation of all processes failed

log = logging.getLogger(__name__)


class Keeper:
    """The checkpoints/ directory of one run, for the processes that train it.

    Another run is kept out of it for as long. Directories without a manifest, which a killed run
    left behind, are removed at the start. Use it as a context manager, or call `close`, so that the
    last save is finished and seen to be.

    Attributes:
        directory: holds one directory a checkpoint, named by its step.
    """

    def __init__(
        self,
        directory: str | Place,
        keep: int = 2,
        keep_every: int | None = None,
        keep_best: str | None = None,
        best_mode: Literal["max", "min"] = "max",
    ):
        """Opens or makes the directory.

        Args:
            directory: WORKDIR/checkpoints, here or on gs://.
            keep: how many of the latest checkpoints stay.
            keep_every: those at multiples of this many steps stay for good.
            keep_best: the one best by this metric stays too; among equals the earliest.
            best_mode: whether the best is the highest or the lowest.

        Raises:
            InputError: if the directory cannot be made or written to, another run has it, or it is
                not the same one for all processes.
        """
        try:
            place = storage.place(directory)
        except ValueError as error:
            raise InputError(f"{directory}: {error}") from None
        self.directory = place if storage.is_store(place) else place.absolute()
        self._keep, self._keep_every = keep, keep_every
        self._keep_best, self._sign = keep_best, 1 if best_mode == "max" else -1
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: tuple[int, Future] | None = None
        self._own: set[int] = set()  # steps saved or restored by this run: its own timeline
        self._lock: folder.Lock | lease.Lease | None = None
        token = by_first("keeper/open", self._open)
        seen = gather("keeper/seen", folder.read_owner(self.directory).get("token"))
        strangers = [i for i, other in enumerate(seen) if other != token]
        if strangers:
            raise InputError(
                f"process {strangers[0]} does not see what process 0 wrote to {self.directory}; "
                "all processes of a run need one --workdir on a file system that they share"
            )

    def _open(self) -> str:
        try:
            self._lock = folder.lock(self.directory)
            folder.remove_leftovers(self.directory)
        except OSError as error:
            self._unlock()
            raise InputError(f"cannot write checkpoints to {self.directory}: {error}") from None
        return self._lock.token

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if several() and is_shared(error) and not self._finishes(SHARED_SECONDS):
            self._worker.shutdown(wait=False)
            self._unlock()
            return
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
        return best.choose(self.directory, steps, self._keep_best, self._sign)

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
        if by_first("keeper/known", lambda: step in self._own and step in self.steps):
            return
        if metrics and self._keep_best and self._keep_best not in metrics:
            near = difflib.get_close_matches(self._keep_best, metrics, n=1)
            log.warning(
                "checkpoint %d has no metric %s to be the best by%s",
                step, self._keep_best, f"; there is {near[0]}" if near else "",
            )  # fmt: skip
        leaves = tree.flatten(state)
        if bad := sorted(set().union(*gather("keeper/finite", tree.not_finite(leaves)))):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise RunError(f"step {step} is not saved: NaN or inf in {bad[0]}{more}")
        given, measured = dict(meta), dict(metrics or {})
        needed = sum(leaf.nbytes for leaf in leaves.values())
        by_first("keeper/clear", lambda: self._make_way(step, needed))
        target = self.directory / str(step)
        try:
            response = arrays.start_saving(target, leaves)
        except Exception as error:
            raise self._failed(step, error) from error
        held = tree.listing(leaves)
        self._running = (
            step,
            self._worker.submit(self._finish, step, response, held, given, measured),
        )

    def judge(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics found after `step` was saved to what `keep_best` looks at: those of
        evaluations that a signal kept from running."""
        if is_first():
            best.add(self.directory, step, metrics, self.steps)

    def poll(self) -> None:
        """Raises RunError if the save under way has failed: now, not at the next one."""
        if self._running is not None and self._running[1].done():
            self.wait()

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
        step, own = by_first("keeper/restore", lambda: self._choose(step))
        state, stored = reading.load_state(self.directory / str(step), abstract_state)
        self._own = set(own)
        return state, stored

    def _choose(self, step: int | None) -> tuple[int, list[int]]:
        """Which step to restore, and which then belong to this run."""
        steps = self.steps
        if not steps or (step is not None and step not in steps):
            there = f"there are {', '.join(map(str, steps))}" if steps else "there is none"
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise InputError(f"{self.directory} holds {wanted}; {there}")
        step = steps[-1] if step is None else step
        return step, [s for s in steps if s <= step]

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
            self._unlock()

    def _finishes(self, seconds: float) -> bool:
        """Whether no save is under way, or it ends so soon; without a process that died it does
        not end before that one's heartbeat is missed."""
        return self._running is None or bool(futures.wait([self._running[1]], seconds).done)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _finish(self, step: int, response, held: tree.Listing, given: dict, metrics: dict) -> None:
        """The background part: waits for the arrays, commits, then lets go of older ones."""
        try:
            response.result()
            by_first("keeper/commit", lambda: self._commit(step, held, given, metrics))
        except Exception:
            if is_first():
                self._give_up(step)
            raise

    def _give_up(self, step: int) -> None:
        """Removes what there is of a save that failed, as a full disk needs the room at once; not
        from a folder that another run has taken over."""
        with contextlib.suppress(OSError, RunError):
            self._lock.check()
            folder.discard(self.directory, step)

    def _commit(self, step: int, held: tree.Listing, given: dict, metrics: dict) -> None:
        target = self.directory / str(step)
        try:
            self._lock.check()
            meta.write(target, step, metrics, held, given)
            manifest.commit(target)
        except Exception as error:
            raise self._failed(step, error) from error
        # A future that is given up goes first: a run killed here must not go on from it.
        for old in sorted(set(self.steps) - self._kept(step), reverse=True):
            folder.remove(self.directory / str(old))

    def _kept(self, newest: int) -> set[int]:
        """Which checkpoints stay now that `newest` stands."""
        steps = [step for step in self.steps if step <= newest]
        kept = set(steps[-self._keep :])
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        if self._keep_best:
            kept |= {self._best(steps)} - {None}
        return kept

    def _make_way(self, step: int, needed: int) -> None:
        """Removes what stands in the place of a new checkpoint: the rest of a failed save, or one
        of a future that this run, restored from before it, does not have.

        Only while another checkpoint of this run stands, and once there is room: a run killed from
        here on goes on from that one.
        """
        target = self.directory / str(step)
        try:
            self._lock.check()
            steps = self.steps
            if steps and self._own.isdisjoint(set(steps) - {step}):
                raise RunError(
                    f"{self.directory} holds checkpoints of another run (step {steps[-1]}); "
                    "restore from it, remove it, or choose another --workdir"
                )
            folder.check_room(self.directory, needed, target)
            if step in steps:
                manifest.revoke(target)
            folder.discard(self.directory, step)
            best.forget(self.directory, step)
        except Exception as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: BaseException) -> RunError:
        """The error of a save as one sentence."""
        if isinstance(error, RunError):
            return error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        last = self.latest
        kept = "no checkpoint stands" if last is None else f"step {last} still stands"
        if _is_full(error):
            known = getattr(error, "strerror", None) or ""
            known = f": {known}" if known.startswith("it takes") else ""
            reason = f"the disk is full{known}; make room and start again"
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
