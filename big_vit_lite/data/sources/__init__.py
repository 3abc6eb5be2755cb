"""Sources: random access to images with labels or captions, one format a file, opened lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from big_vit_lite.config import InputError
from big_vit_lite.data import files, parts
from big_vit_lite.data.sources.base import Columns, Source
from big_vit_lite.data.sources.image_files import ImageFiles
from big_vit_lite.data.sources.part import Part

if TYPE_CHECKING:
    from big_vit_lite.config import Split

__all__ = ["Columns", "ImageFiles", "Source", "build", "columns_of"]

_NEEDS = {
    "arrayrecord": "the folder that holds ArrayRecord shards and their schema.json",
    "folder": "the folder that holds one folder of images per class",
    "parquet": "a Parquet file, or the folder of the dataset's *.parquet shards",
    "table": "a .csv, .tsv or .jsonl file that names image files",
    "tar": 'a tar file, the folder of its shards, or a pattern such as "DIR/{00000..00099}.tar"',
    "tfds": "the data set's folder, such as DATA_DIR/imagenet2012/5.1.0",
}


def build(split: Split, where: str = "data.train") -> Source:
    """Opens the source of `split` and keeps its `part`.

    Args:
      split: source, path, split, part, keys and class names.
      where: name of this section in the config, for error texts.

    Raises:
      InputError: no path, nothing found there, a column that is not there, or a part that selects
        nothing.
    """
    if split.source in _NEEDS and not split.path:
        raise InputError(
            f"{where}.path is not set: give {_NEEDS[split.source]}, "
            f"for example --config.{where}.path=/datasets/mine"
        )
    if split.path:
        files.require(split.path, f"{where}.path")
    try:
        source = _open(split, columns_of(split), where)
    except OSError as error:
        named = error.filename or split.path
        raise InputError(
            f"{where}.path: {named} cannot be read ({files.why(error)}); check that it is there "
            "and that you may read it"
        ) from error
    if not split.part.strip():
        return source
    return Part(source, parts.select(split.part, len(source), source.labels, where))


def columns_of(split: Split) -> Columns:
    """What a split wants from its source: captions where it has `text`, labels where it has none
    or names the label's key. Pairs of digits always have both at hand."""
    made_up = split.source == "digit_pairs"
    return Columns(
        image=split.image_key,
        label=split.label_key,
        caption=split.caption_key,
        labels=made_up or not split.text or split.label_key is not None,
        captions=bool(split.text),
    )


def _open(split: Split, columns: Columns, where: str) -> Source:
    if split.source in ("digits", "folder", "synthetic") and columns.captions:
        raise InputError(
            f"{where}.text is set, but source {split.source} has no captions; "
            "digit_pairs, table, tar, parquet, arrayrecord and tfds can have them"
        )
    if split.source in ("digit_pairs", "digits", "synthetic") and split.class_names is not None:
        raise InputError(f"{where}.class_names: source {split.source} names its classes itself")
    if split.source == "arrayrecord":
        from big_vit_lite.data.sources.arrayrecord import ArrayRecord

        return ArrayRecord(split.path, split.split, columns, names_of(split, where), where)
    if split.source == "digit_pairs":
        from big_vit_lite.data.sources.digit_pairs import DigitPairs

        return DigitPairs(split.examples, split.split, where)
    if split.source == "digits":
        from big_vit_lite.data.sources.digits import Digits

        return Digits()
    if split.source == "folder":
        from big_vit_lite.data.sources.folder import Folder

        return Folder(split.path, split.split, names_of(split, where), where)
    if split.source == "parquet":
        from big_vit_lite.data.sources.parquet import Parquet

        return Parquet(split.path, split.split, columns, names_of(split, where), where)
    if split.source == "synthetic":
        from big_vit_lite.data.sources.synthetic import Synthetic

        size = (*split.image_size, split.channels)
        return Synthetic(split.examples, split.classes, size, split.split or "train")
    if split.source == "table":
        from big_vit_lite.data.sources.table import Table

        return Table(split.path, split.split, columns, names_of(split, where), where)
    if split.source == "tar":
        from big_vit_lite.data.sources.tar import Tar

        return Tar(split.path, split.split, columns, names_of(split, where), where)
    assert split.source == "tfds", split.source
    from big_vit_lite.data.sources.tfds import Tfds

    return Tfds(split.path, split.split, columns, names_of(split, where), where)


def names_of(split: Split, where: str) -> tuple[str, ...] | None:
    """Class names of the split's own file, if it names one."""
    from big_vit_lite.data.sources.classes import read_names

    if split.class_names is None:
        return None
    return read_names(split.class_names, f"{where}.class_names")
