"""Traces of chosen steps, for Perfetto, XProf and tools/top_operations.py."""

import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from big_vit_lite import storage
from big_vit_lite.config import Option
from big_vit_lite.storage import Place

PROGRAM = "step.txt"
"""The compiled step beside its trace: it knows which layer each operation belongs to."""

log = logging.getLogger(__name__)


def _steps(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise ValueError("wants FIRST:END with FIRST < END, as in 10:13 for three steps")
    return int(first), int(end)


PROFILE = Option(
    "profile",
    "FIRST:END",
    "Traces these steps, counted from 0, into WORKDIR/profile: the field report.profile in short. "
    "tools/top_operations.py says what took the time in it.",
    _steps,
)


class Profile:
    """Traces the steps [first, end) of `report.profile` into a folder; a context manager.

    The Python interpreter's own calls are left out: they slow a step several times and bury it.
    """

    def __init__(
        self, steps: tuple[int, int] | None, directory: Place, program_of: Callable[[int], Any]
    ):
        """Prepares.

        Args:
            steps: which ones, counted from 0; None: none.
            directory: where the trace goes, of this process alone; to a store when it is whole.
            program_of: the compiled function of a step counted from 1, a jax.stages.Compiled.
        """
        self.steps, self.directory, self.program_of = steps, directory, program_of
        self.program: Any = None  # that of the steps being traced
        self._here: Path | None = None  # where JAX writes the trace, as it cannot write to stores

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception) -> None:
        if self.running:
            self._stop()

    def step(self, step: int) -> contextlib.AbstractContextManager:
        """Step `step`, counted from 1, is dispatched in here; tools find it under its number."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def before(self, step: int, state: Any) -> None:
        """Called before step `step` (counted from 1) takes the state of the step before it."""
        wanted = self.steps is not None and self.steps[0] <= step - 1 < self.steps[1]
        if not wanted and not self.running:
            return
        program = self.program_of(step) if wanted else None
        if program is self.program:
            return
        jax.block_until_ready(state)  # the trace begins and ends with whole steps
        if self.running:
            self._stop()
            if wanted:  # images have grown, and operations of two programs share their names
                log.warning("the trace ends before step %d, which is another program", step)
                self.steps = None
        else:
            self._start(program)

    @property
    def running(self) -> bool:
        """Whether steps are being traced."""
        return self.program is not None

    def _start(self, program: Any) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        self._here = self.directory
        if storage.is_store(self.directory):
            self._here = Path(tempfile.mkdtemp(prefix="profile-"))
        self._here.mkdir(parents=True, exist_ok=True)
        (self._here / PROGRAM).write_text(program.as_text())
        jax.profiler.start_trace(self._here, profiler_options=options)
        self.program = program

    def _stop(self) -> None:
        self.program = None
        jax.profiler.stop_trace()
        if storage.is_store(self.directory):
            storage.copy_tree(self._here, self.directory)
            storage.remove_tree(self._here)
