"""What a run tells: metrics.jsonl, TensorBoard, the progress line, speed, tables and figures.

Names load on first use, so that importing the package costs nothing.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
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
        "capacity": "hardware",
        "memory_peak": "hardware",
        "peaks": "hardware",
        "peak_flops": "hardware",
        "parameter_table": "table",
        "read_rows": "rows",
    },
)
