"""Weights files of every published kind, read by NumPy alone: safetensors, .npz, torch's."""

from big_vit_lite.weights.files.source import Source, open_source
from big_vit_lite.weights.files.stored import Stored

__all__ = ["Source", "Stored", "open_source"]
