"""An array that lies in a file: its shape and type are known, its values are read when asked for.

So names and shapes of a file of many gigabytes can be checked before the first value is read.
"""

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Stored:
    """Shape, dtype, and the function that reads the values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def float32(stored: Stored) -> np.ndarray:
    """The values as float32, which holds every bfloat16 and float16 exactly."""
    values = stored.read()
    return np.ascontiguousarray(values, np.float32).reshape(stored.shape)
