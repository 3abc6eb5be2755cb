"""Optimisers: an optax chain with schedules, masks by rule and per-parameter rates."""

import importlib

_HOME = {
    "Optimizer": "chain",
    "build": "chain",
    "multipliers": "rules",
    "make_schedule": "schedules",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
