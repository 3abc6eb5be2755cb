"""Published weights in and out: files of every layout read into our parameters and written back.

Names load on first use, so that importing the package costs nothing.
"""

import importlib

_HOME = {
    "Loaded": "loading",
    "Preprocessing": "preprocessing",
    "Sections": "sections",
    "LAYOUTS": "layouts",
    "check_start": "starting",
    "holds_weights": "files.source",
    "load": "loading",
    "patch_resize": "resizing",
    "save": "saving",
    "save_again": "saving",
    "start_from": "starting",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
