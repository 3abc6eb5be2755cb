"""Losses and gradients that are not finite: left out up to a limit, or the end of the run."""

from collections import deque

import jax
import numpy as np

from big_vit_lite import config


class LossWatch:
    """Reads each step's metrics when they are there, and refuses those that are not finite.

    It stays one step behind, so that the device never waits for the host. Steps whose update the
    step itself left out are counted: up to `limit` of them for NaN or infinity, and any number for
    overflows of the loss scale, which is how that scale is found.
    """

    def __init__(self, batches, limit: int = 0, say=print, left_out: dict[str, int] | None = None):
        self.batches, self.limit, self.say = batches, limit, say
        self.left_out = {"nonfinite": 0, "overflow": 0} | (left_out or {})
        self.pending: deque[tuple[int, dict]] = deque()

    def add(self, step: int, metrics: dict, wait: bool) -> list[tuple[int, dict[str, float]]]:
        """Takes the metrics of step `step` (counted from 1).

        Returns:
            (step, metrics) of the steps that are finished: this one too if `wait`.

        Raises:
            RunError: names the first step whose loss or gradient is not finite beyond the limit,
                and its examples.
        """
        self.pending.append((step, metrics))
        return [self._read() for _ in range(len(self.pending) - (0 if wait else 1))]

    def _read(self) -> tuple[int, dict[str, float]]:
        step, metrics = self.pending.popleft()
        metrics = {key: float(value) for key, value in jax.device_get(metrics).items()}
        faults = [key for key in ("loss", "grad_norm") if not np.isfinite(metrics[key])]
        scaled, overflow = "overflow" in metrics, metrics.pop("overflow", 0)
        self.left_out["overflow"] += int(overflow)
        if faults and not overflow:
            self._leave_out(step, f"step {step}: {faults[0]} is {metrics[faults[0]]}")
        if self.limit:
            metrics["skipped_updates"] = self.left_out["nonfinite"]
        if scaled:
            metrics["overflows"] = self.left_out["overflow"]
        return step, metrics

    def _leave_out(self, step: int, what: str) -> None:
        """Counts an update that was left out, or ends the run."""
        known, limit = self.left_out["nonfinite"], self.limit
        holds = f"its batch holds the examples [{self._examples(step)}] of data.train"
        if known < limit:
            self.left_out["nonfinite"] += 1
            self.say(f"{what}; its update is left out ({known + 1} of at most {limit}); {holds}")
            return
        before = f", after {limit} updates left out, all that optim.skip_nonfinite allows"
        raise config.RunError(
            f"{what}{before if limit else ''}; {holds}. No state of this step or later is saved. "
            "Try a lower optim.lr, a longer optim.warmup, or optim.clip_norm=1.0."
        )

    def _examples(self, step: int) -> str:
        return ", ".join(map(str, self.batches.indices(step - 1)))
