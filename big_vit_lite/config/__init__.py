"""The configuration of a run: schema, loading, overrides, durations, help.

Importing this package imports neither jax nor anything else of big_vit_lite.
"""

from big_vit_lite.config.durations import Duration, Every, parse_duration, steps_of, total_steps
from big_vit_lite.config.errors import ABSENT, Fault, InputError, RunError
from big_vit_lite.config.model import Model
from big_vit_lite.config.schema import (
    Checkpoint,
    Data,
    Eval,
    Mesh,
    Optim,
    Report,
    Run,
    Split,
    Task,
)

__all__ = [
    "ABSENT",
    "Checkpoint",
    "Data",
    "Duration",
    "Eval",
    "Every",
    "Fault",
    "InputError",
    "Mesh",
    "Model",
    "Optim",
    "Report",
    "Run",
    "RunError",
    "Split",
    "Task",
    "parse_duration",
    "steps_of",
    "total_steps",
]
