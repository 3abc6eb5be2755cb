"""Image files by their paths, without labels: what tasks read that name files themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from big_vit_lite.data import files
from big_vit_lite.data.sources.base import BadExample, Example, Source


class ImageFiles(Source):
    """The files at `paths`, local or URLs, in the order given."""

    class_names = ()

    def __init__(self, paths: Sequence[str]):
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Example:
        try:
            return {"image": files.read(self._paths[i])}
        except OSError as error:
            raise BadExample(
                f"{self._paths[i]}: cannot be read ({files.why(error)}); put the file there"
            ) from error

    def labels(self) -> Int[np.ndarray, " n"]:
        return np.zeros(len(self), np.int64)

    def name_of(self, i: int) -> str:
        return self._paths[i]
