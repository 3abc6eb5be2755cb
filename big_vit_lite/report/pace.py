"""How fast training goes: images a second, model FLOPs utilisation, share of time without data."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Pace:
    """Speed since the last row, with evaluations and saves left out.

    Args:
        batch_size: images a step.
        devices: chips that share them.
        peak_flops: FLOP/s of one chip; None where it is not known, then there is no MFU.
        clock: seconds; injectable for tests.
    """

    def __init__(
        self,
        batch_size: int,
        devices: int,
        peak_flops: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._batch_size, self._devices = batch_size, devices
        self._peak = peak_flops
        self._clock = clock
        self._steps, self._flops, self._waited, self._paused = 0, 0.0, 0.0, 0.0
        self._began = clock()
        self._last: dict[str, float] = {}

    def step(self, waited: float, flops_per_image: float) -> None:
        """Counts a step that waited this many seconds for its batch.

        Args:
            flops_per_image: analytic training FLOPs of one of its images.
        """
        self._steps += 1
        self._flops += flops_per_image * self._batch_size
        self._waited += waited

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time in here is not training time."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - began

    def read(self) -> dict[str, float]:
        """Metrics since the last call: speed/images_per_s, speed/images_per_s_per_chip, speed/mfu,
        speed/step_s, and speed/data_wait, the share of the time that was spent waiting for data.
        Without a step since then, the same again: two rows can become known at once."""
        if not self._steps:
            return dict(self._last)
        now = self._clock()
        seconds = max(now - self._began - self._paused, 1e-9)
        images = self._steps * self._batch_size
        rate = images / seconds
        metrics = {
            "speed/images_per_s": rate,
            "speed/images_per_s_per_chip": rate / self._devices,
            "speed/step_s": seconds / self._steps,
            "speed/data_wait": min(self._waited / seconds, 1.0),
        }
        if self._peak:
            metrics["speed/mfu"] = self._flops / seconds / (self._devices * self._peak)
        self._steps, self._flops, self._waited, self._paused, self._began = 0, 0.0, 0.0, 0.0, now
        self._last = metrics
        return dict(metrics)
