"""From files to global device batches: sources, transforms, and streams of (seed, step).

Names load on first use: the grammar of transforms needs neither JAX nor grain.
"""

import importlib

_HOME = {
    "train_stream": "stream",
    "eval_stream": "stream",
    "file_stream": "stream",
    "BatchStream": "stream",
    "Skipped": "examples",
    "Skips": "skips",
}
__all__ = [*_HOME, "sources", "text", "transforms"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in ("sources", "text", "transforms"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
