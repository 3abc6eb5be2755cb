"""Models that answer in one line: `load` a file, a checkpoint or a hub's name, then encode.

Names load on first use, so that importing the package costs nothing.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {"Pretrained": "model", "load": "loading"},
)
