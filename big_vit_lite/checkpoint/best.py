"""Which checkpoint is the best by a metric, measured before it was saved or after."""

import json
import math
from collections.abc import Iterable, Mapping

from big_vit_lite import storage
from big_vit_lite.checkpoint import reading
from big_vit_lite.storage import Place

LATE = ".metrics.json"
"""Beside the checkpoints: {step: metrics that were found after it was saved}."""


def choose(directory: Place, steps: Iterable[int], metric: str | None, sign: int) -> int | None:
    """Of the checkpoints of these steps the one whose `sign` times the metric is the highest, among
    equals the earliest; None where none has that metric."""
    late, values = _late(directory), {}
    for step in steps:
        saved = reading.metrics_of(directory / str(step))
        values[step] = (dict(saved) | late.get(str(step), {})).get(metric)
    known = {step: value for step, value in values.items() if value is not None}
    return max(known, key=lambda step: (sign * known[step], -step), default=None)


def add(directory: Place, step: int, metrics: Mapping[str, float], standing: Iterable[int]) -> None:
    """Keeps metrics found after `step` was saved; those of checkpoints that are gone go."""
    known = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    stay = set(map(str, standing))
    _write(directory, {s: v for s, v in _late(directory).items() if s in stay} | {str(step): known})


def forget(directory: Place, step: int) -> None:
    """Drops what was found of a checkpoint that another of the same step takes the place of."""
    late = _late(directory)
    if late.pop(str(step), None) is not None:
        _write(directory, late)


def _late(directory: Place) -> dict[str, dict[str, float | None]]:
    try:
        return dict(json.loads((directory / LATE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _write(directory: Place, late: Mapping[str, Mapping[str, float | None]]) -> None:
    storage.replace(directory / LATE, json.dumps(late, indent=1).encode())
