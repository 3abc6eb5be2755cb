"""Checkpoints: saved in background, committed by a checksum manifest, read against abstract trees.

Names load on first use, so that importing the package costs nothing.
"""

from big_vit_lite import lazy

__all__, __getattr__, __dir__ = lazy.names(
    __name__,
    {
        "Keeper": "keeper",
        "Misfit": "tree",
        "SKIP": "transfer",
        "StopRequest": "preemption",
        "check_arrays": "transfer",
        "check_params": "transfer",
        "find": "reading",
        "identity": "manifest",
        "latest": "reading",
        "load_params": "reading",
        "read_meta": "reading",
        "transfer_arrays": "transfer",
        "transfer_params": "transfer",
        "verify": "reading",
        "Transferred": "transfer",
    },
)
