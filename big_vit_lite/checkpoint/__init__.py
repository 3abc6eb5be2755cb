"""Checkpoints: saved in background, committed by a checksum manifest, read against abstract trees.

Names load on first use, so that importing the package costs nothing.
"""

import importlib

_HOME = {
    "Keeper": "keeper",
    "StopRequest": "preemption",
    "find": "reading",
    "load_params": "reading",
    "read_meta": "reading",
    "transfer_arrays": "transfer",
    "transfer_params": "transfer",
    "Transferred": "transfer",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
