"""Features in place of images, for shards that `features(n)` reads: what is stored, and of what."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from big_vit_lite.data.transforms.op import ImageFault


@dataclass(frozen=True)
class Computed:
    """How `prepare` gets a vector for each example instead of its image.

    Attributes:
      compute: gives for rows of the source, in their order, each vector (n,), or the fault because
        of which there is none. Called once for each shard that is missing.
      n: numbers of a vector.
      made_by: all that the numbers depend on, such as the checkpoint and the transform, as JSON
        can hold it. A run with another is refused.
      dtype: of the stored numbers.
    """

    compute: Callable[[Sequence[int]], Iterable[Float[np.ndarray, " n"] | str]]
    n: int
    made_by: Mapping[str, Any]
    dtype: Literal["float16", "float32"] = "float16"

    holds: ClassVar[str] = "features"

    def settings(self) -> dict[str, Any]:
        """All that the bytes depend on."""
        return {"features": self.n, "dtype": self.dtype, **self.made_by}

    def for_rows(self, rows: Sequence[int]) -> Iterator[Callable[[Any], bytes]]:
        """What makes the bytes of each row's image."""
        return (lambda image, made=made: self.stored(made) for made in self.compute(rows))

    def __call__(self, image: Any) -> bytes:
        """What any image takes, for estimates of size."""
        return self.stored(np.zeros(self.n))

    def stored(self, made: Float[np.ndarray, " n"] | str) -> bytes:
        """A .npy file.

        Raises:
          ImageFault: there are no numbers, others than n, or one that is not finite as stored.
        """
        if isinstance(made, str):
            raise ImageFault(made)
        made = np.asarray(made)
        if made.shape != (self.n,):
            raise ImageFault(f"features of shape {made.shape} were computed, not {(self.n,)}")
        with np.errstate(over="ignore"):
            numbers = made.astype(self.dtype)
        if not np.isfinite(numbers).all():
            worst = made[np.argmin(np.isfinite(numbers))]
            beyond = "not finite" if not np.isfinite(worst) else f"beyond {self.dtype}"
            raise ImageFault(f"a feature is {worst:g}, which is {beyond}")
        file = io.BytesIO()
        np.lib.format.write_array(file, numbers, (1, 0))
        return file.getvalue()
