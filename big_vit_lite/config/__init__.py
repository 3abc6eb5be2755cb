"""The configuration of a run: schema, loading, overrides, durations, command line, help.

Importing this package imports neither jax nor, but for storage, anything else of big_vit_lite.
"""

from big_vit_lite.config.command_line import (
    CommandLine,
    Option,
    command_line,
    exit_code,
    options_line,
    words_line,
)
from big_vit_lite.config.durations import Duration, Every, parse_duration, steps_of, total_steps
from big_vit_lite.config.errors import (
    ABSENT,
    Fault,
    InputError,
    PeerError,
    RunError,
)
from big_vit_lite.config.load import load
from big_vit_lite.config.model import Model
from big_vit_lite.config.resume import (
    RESUMABLE,
    changes,
    check_resume,
    differences,
)
from big_vit_lite.config.rules import splits
from big_vit_lite.config.rules_mesh import check_devices, mesh_sizes, microbatches
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
from big_vit_lite.config.source import beside, parse_arg
from big_vit_lite.config.towers import Decoder, Joint, Reconstruction, Text

__all__ = [
    "ABSENT",
    "RESUMABLE",
    "Checkpoint",
    "CommandLine",
    "Data",
    "Decoder",
    "Duration",
    "Eval",
    "Every",
    "Fault",
    "InputError",
    "Joint",
    "Mesh",
    "Model",
    "Optim",
    "Option",
    "PeerError",
    "Reconstruction",
    "Report",
    "Run",
    "RunError",
    "Split",
    "Task",
    "Text",
    "beside",
    "check_devices",
    "changes",
    "check_resume",
    "command_line",
    "differences",
    "exit_code",
    "load",
    "options_line",
    "mesh_sizes",
    "microbatches",
    "parse_arg",
    "parse_duration",
    "splits",
    "steps_of",
    "total_steps",
    "words_line",
]
