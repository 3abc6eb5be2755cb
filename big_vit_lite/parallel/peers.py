"""What the processes of a run tell each other beside the arrays of the step.

Two ways. `gather` and `by_first` go through JAX's coordination service: some milliseconds, from any
thread, with no device involved; for starts, evaluations and saves. `Votes` sums two numbers a step
over all devices, without making the host wait. One process alone has nobody to ask.
"""

import collections
import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vit_lite.config import InputError, RunError
from big_vit_lite.parallel.failure import client, several
from big_vit_lite.parallel.mesh import replicated

_DAY_MS = 24 * 3600 * 1000  # a dead process ends the wait by its heartbeat, long before
_rounds: dict[str, "itertools.count[int]"] = collections.defaultdict(itertools.count)


def is_first() -> bool:
    """Whether this process is the one that writes files and prints lines."""
    return not several() or jax.process_index() == 0


def gather(name: str, value: Any) -> list[Any]:
    """`value` of every process, in their order; returns when all have called.

    Args:
        name: one for each place in the program; its calls come in the same order everywhere.
        value: anything JSON holds; tuples come back as lists.
    """
    if not several():
        return [value]
    number, me = next(_rounds[name]), jax.process_index()
    folder = f"big_vit_lite/{name}"
    client().key_value_set(f"{folder}/{number}/{me}", json.dumps(value))
    client().wait_at_barrier(f"{folder}/{number}", _DAY_MS)
    found = client().key_value_dir_get(f"{folder}/{number}/")
    if number:  # whoever is here has read the round before
        client().key_value_delete(f"{folder}/{number - 1}/{me}")
    by_process = {int(key.rsplit("/", 1)[1]): json.loads(text) for key, text in found}
    return [by_process[i] for i in range(jax.process_count())]


def by_first(name: str, function: Callable[[], Any]) -> Any:
    """What `function` returns in the first process, in all of them; the others do not call it.

    Raises:
        InputError, RunError: as it did there, everywhere; RunError elsewhere for other errors.
    """
    if not several():
        return function()
    outcome, error = None, None
    if is_first():
        try:
            outcome = {"value": function()}
        except Exception as raised:
            kind = next((k for k in (InputError, RunError) if isinstance(raised, k)), None)
            text = str(raised) if kind else f"process 0 failed: {raised!r}"
            error, outcome = raised, {"error": text, "input": kind is InputError}
    outcome = gather(name, outcome)[0]
    if error is not None:
        raise error
    if "error" in outcome:
        raise (InputError if outcome["input"] else RunError)(outcome["error"])
    return outcome["value"]


class Votes:
    """What each process has to say about each step, heard by all at the same step.

    With several processes an answer comes one step later, when the device has long had it: a
    host that waited for each step's own would leave the device idle.

    Attributes:
        stop: whether any process has been asked to stop.
    """

    def __init__(self, mesh: Mesh):
        self.stop = False
        self._pending: collections.deque[tuple[int, Any, list]] = collections.deque()
        if not several():
            return
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._shape = (mesh.size, 2)
        spans = self._sharding.addressable_devices_indices_map(self._shape).values()
        self._own = min(span[0].start or 0 for span in spans)  # one device speaks for a process
        self._sum = jax.jit(lambda x: x.sum(0), out_shardings=replicated(mesh))

    def add(self, step: int, stop: bool, skipped: tuple) -> list[tuple[int, list]]:
        """Takes this process's part of step `step`.

        Args:
            stop: whether it has been asked to stop.
            skipped: examples that it could not use for the step.

        Returns:
            (step, examples that any process could not use) of the steps that are known by now.
        """
        if not several():
            self.stop = stop
            return [(step, list(skipped))]
        said = np.array([[stop, len(skipped)]], np.int32)

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            return said if (index[0].start or 0) == self._own else np.zeros_like(said)

        votes = jax.make_array_from_callback(self._shape, self._sharding, shard)
        self._pending.append((step, self._sum(votes), list(skipped)))
        return [self._read() for _ in range(len(self._pending) - 1)]

    def flush(self) -> list[tuple[int, list]]:
        """What `add` would return next time, now."""
        return [self._read() for _ in range(len(self._pending))]

    def _read(self) -> tuple[int, list]:
        step, votes, skipped = self._pending.popleft()
        stop, count = map(int, jax.device_get(votes))
        self.stop |= stop > 0
        # Rare, so that names may take their time.
        return step, sum(gather("skipped", skipped), []) if count else []
