"""Models for serving: exported once, then loaded where neither Flax nor this project's models are.

`load` and `Served` need jax, NumPy and flatbuffers alone; `export` needs all that loading a model
needs. Names load on first use.
"""

import importlib

_HOME = {
    "BadArtifact": "loading",
    "Served": "loading",
    "export": "exporting",
    "load": "loading",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
