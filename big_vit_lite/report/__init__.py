"""What a run tells: metrics.jsonl, TensorBoard, the progress line, speed, tables and figures.

Names load on first use, so that importing the package costs nothing.
"""

import importlib

_HOME = {
    "Log": "log",
    "LossWatch": "loss_watch",
    "Silent": "log",
    "Watchdog": "watchdog",
    "open": "log",
    "Counting": "counting",
    "Goodput": "goodput",
    "PROFILE": "profile",
    "Pace": "pace",
    "Profile": "profile",
    "Progress": "progress",
    "curve": "figures",
    "curves": "figures",
    "count_flops": "flops",
    "forward_flops": "flops",
    "train_flops": "flops",
    "capacity": "hardware",
    "memory_peak": "hardware",
    "peaks": "hardware",
    "peak_flops": "hardware",
    "parameter_table": "table",
    "read_rows": "rows",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
