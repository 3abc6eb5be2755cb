"""Models that answer in one line: `load` a file, a checkpoint or a hub's name, then encode.

Names load on first use, so that importing the package costs nothing.
"""

import importlib

_HOME = {"Pretrained": "model", "load": "loading"}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
