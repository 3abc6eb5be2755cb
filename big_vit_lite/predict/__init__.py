"""`python -m big_vit_lite.predict`: what a model says of image files.

    classify    the likeliest classes of each image, of a classifier
    zero_shot   which of some labels fits each image, of two towers
    embed       a vector for each image, into a .npy or .parquet file; resumable
    similar     which of embedded images are nearest to other images, or to texts

Names load on first use, so that importing the package costs nothing.
"""

import importlib

_HOME = {"main": "command"}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
