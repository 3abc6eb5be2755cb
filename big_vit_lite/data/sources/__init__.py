"""Sources: random access to labelled images, one format a file, opened when first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from big_vit_lite.config import InputError
from big_vit_lite.data import parts
from big_vit_lite.data.sources.base import Source
from big_vit_lite.data.sources.part import Part

if TYPE_CHECKING:
    from big_vit_lite.config import Split

__all__ = ["Source", "build"]

_NEEDS = {
    "folder": "the folder that holds one folder of images per class",
    "parquet": "a Parquet file, or the folder of the dataset's *.parquet shards",
}


def build(split: Split, where: str = "data.train") -> Source:
    """Opens the source of `split` and keeps its `part`.

    Args:
      split: source, path, split, part and keys.
      where: name of this section in the config, for error texts.

    Raises:
      InputError: no path, nothing found there, unknown key, or a part that selects nothing.
    """
    if split.source in _NEEDS and not split.path:
        raise InputError(
            f"{where}.path is not set: give {_NEEDS[split.source]}, "
            f"for example --config.{where}.path=/datasets/mine"
        )
    source = _open(split, where)
    if not split.part.strip():
        return source
    return Part(source, parts.select(split.part, len(source), source.labels, where))


def _open(split: Split, where: str) -> Source:
    if split.source == "digits":
        from big_vit_lite.data.sources.digits import Digits

        return Digits()
    if split.source == "folder":
        from big_vit_lite.data.sources.folder import Folder

        return Folder(split.path, split.split, where)
    if split.source == "parquet":
        from big_vit_lite.data.sources.parquet import Parquet

        return Parquet(
            split.path, split.split, split.image_key or "image", split.label_key or "label", where
        )
    if split.source == "synthetic":
        from big_vit_lite.data.sources.synthetic import Synthetic

        size = (*split.image_size, split.channels)
        return Synthetic(split.examples, split.classes, size, split.split or "train")
    raise InputError(
        f"{where}.source: unknown source {split.source!r}; "
        "there are digits, folder, parquet, synthetic"
    )
