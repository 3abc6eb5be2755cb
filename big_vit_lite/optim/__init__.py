"""Optimisers: an optax chain with schedules, masks by rule and per-parameter rates."""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
        "Optimizer": "chain",
        "build": "chain",
        "multipliers": "rules",
        "make_schedule": "schedules",
        "statistics": "rules",
    },
)
