"""Data sets prepared by TensorFlow Datasets as ArrayRecord, read without TensorFlow.

TensorFlow Datasets names their files, features and classes; images stay the bytes they were
stored as. It prepares them, too, without TensorFlow where a data set's files are images already:

    tfds.builder("imagenet2012", file_format="array_record").download_and_prepare()
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.sources import classes, label_cache
from big_vit_lite.data.sources.base import BadExample, Columns, Example, Source, captions_of
from big_vit_lite.data.sources.record_shards import RecordShards

_INFO = "dataset_info.json"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Tfds(Source):
    """Examples of one split in the order of its shards.

    Args:
      path: DATA_DIR/NAME/VERSION or DATA_DIR/NAME/CONFIG/VERSION; without VERSION the newest.
      split: "train", "test", ...; None where there is only one.
      columns: features; of one inside another, as in coco_captions, the path "captions/text".
      names: class names that replace those of the data set.

    Raises:
      InputError: a URL, no prepared data set at the path, one that is not ArrayRecord, a missing
        shard, an unknown split or feature.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        columns: Columns,
        names: tuple[str, ...] | None = None,
        where: str = "data.train",
    ):
        tfds = _package(where)
        self._folder = _dataset_folder(files.normal(path), where)
        try:
            builder = tfds.builder_from_directory(self._folder)
        except Exception as error:  # of any type: damaged JSON fails in many ways
            raise InputError(
                f"{where}.path: {self._folder} cannot be read as a TensorFlow Datasets folder "
                f"({files.why(error)}); prepare it again"
            ) from error
        info = builder.info
        _require_array_record(info, self._folder, where)
        self._split = _split(info, split, self._folder, where)
        self._shards = [os.fspath(path) for path in info.splits[self._split].filepaths]
        _require_all(self._shards, info.splits[self._split].shard_lengths, where)
        self._columns = {"image": columns.image or "image"}
        if columns.labels:
            self._columns["label"] = columns.label or "label"
        if columns.captions:
            self._columns["caption"] = columns.caption or "caption"
        found = {
            what: _feature(info.features, key, f"{where}.{what}_key", self._folder)
            for what, key in self._columns.items()
        }
        if not isinstance(found["image"], tfds.features.Image):
            raise InputError(
                f"{where}.image_key: feature {self._columns['image']!r} of {self._folder} is "
                f"{type(found['image']).__name__}, not Image"
            )
        try:
            self._examples = builder.as_data_source(
                self._split, decoders=_undecoded(info.features, tfds)
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"{where}.path: {self._folder} cannot be read ({files.why(error)}); copy it again"
            ) from error
        self._classes = self._read_classes(found.get("label"), names, tfds)
        self.class_names = self._classes.names

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        stored = self._read(i)
        image = _at(stored, self._columns["image"])
        if not isinstance(image, bytes) or not image:
            raise BadExample(
                f"{self.name_of(i)}: feature {self._columns['image']!r} holds no image bytes"
            )
        example: Example = {"image": image}
        if "label" in self._columns:
            value = _plain(_at(stored, self._columns["label"]))
            label = self._classes.number(value)
            if label is None:
                raise BadExample(f"{self.name_of(i)}: {self._classes.wrong(value)}")
            example["label"] = label
        if "caption" in self._columns:
            key = self._columns["caption"]
            captions = _plain(_at(stored, key))
            example["captions"] = captions_of(captions, self.name_of(i), f"feature {key!r}")
        return example

    def labels(self) -> Int[np.ndarray, " n"]:
        if "label" not in self._columns:
            return np.zeros(len(self), np.int64)
        number = self._classes.number
        return np.array([number(value) or 0 for value in self._all_labels()], np.int64)

    def name_of(self, i: int) -> str:
        return f"{self._folder}, {self._split}, row {i}"

    def _read(self, i: int) -> Any:
        try:
            return self._examples[i]
        except Exception as error:  # ArrayRecord's, protobuf's and TensorFlow Datasets' own
            raise BadExample(
                f"{self.name_of(i)}: cannot be read ({files.why(error)}); copy the data set again"
            ) from error

    def _read_classes(
        self, feature: Any, names: tuple[str, ...] | None, tfds: Any
    ) -> classes.Classes:
        if feature is None:
            return classes.Classes(())
        if isinstance(feature, tfds.features.ClassLabel):
            stored = feature.names or [str(i) for i in range(feature.num_classes or 0)]
            if names or stored:
                return classes.Classes(names or tuple(stored))
        return classes.from_counts(Counter(self._all_labels()), names)

    def _all_labels(self) -> list[int | str | None]:
        return label_cache.cached(self._shards, self._columns["label"], self._read_labels)

    def _read_labels(self) -> Iterator[int | str | None]:
        for i in range(len(self)):
            try:
                value = _plain(_at(self._read(i), self._columns["label"]))
            except BadExample:  # which whoever asks for the example will be told
                value = None
            yield value if isinstance(value, int | str) else None


def _package(where: str) -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            f"{where}.source: tfds needs the package {error.name or 'tensorflow-datasets'}, which "
            'is missing: pip install "big_vit_lite[tfds]"'
        ) from None
    return tensorflow_datasets


def _dataset_folder(path: str, where: str) -> str:
    """The folder with dataset_info.json: `path`, or its newest version, or that of its only
    config."""
    if files.is_url(path):
        raise InputError(
            f"{where}.path: ArrayRecord files are read from disks only; copy {path} to one, or "
            "mount it (gcsfuse, mount-s3) and give the folder"
        )
    if not os.path.isdir(path):
        raise InputError(
            f"{where}.path: {path} is no folder; give that of a data set prepared by TensorFlow "
            "Datasets, such as DATA_DIR/imagenet2012/5.1.0"
        )
    if newest := _newest(path):
        return newest
    inner = {name: _newest(os.path.join(path, name)) for name in files.children(path)[0]}
    inner = {name: folder for name, folder in inner.items() if folder}
    if len(inner) == 1:
        return next(iter(inner.values()))
    if inner:
        raise InputError(
            f"{where}.path: {path} holds several data sets or configs: {', '.join(inner)}; "
            "give the folder of one"
        )
    raise InputError(
        f"{where}.path: {path} holds no {_INFO} and no version with one; give the folder of a data "
        "set prepared by TensorFlow Datasets"
    )


def _newest(path: str) -> str | None:
    if os.path.isfile(os.path.join(path, _INFO)):
        return path
    folders = [name for name in files.children(path)[0] if _VERSION.fullmatch(name)]
    folders = [name for name in folders if os.path.isfile(os.path.join(path, name, _INFO))]
    if not folders:
        return None
    newest = max(folders, key=lambda name: tuple(map(int, _VERSION.fullmatch(name).groups())))
    return os.path.join(path, newest)


def _require_array_record(info: Any, folder: str, where: str) -> None:
    stored = info.file_format.value if info.file_format else "tfrecord"
    if stored != "array_record":
        raise InputError(
            f"{where}.path: {folder} was prepared as {stored}, which has no random access; prepare "
            f"it again by tfds.builder({info.name!r}, file_format='array_record')"
            ".download_and_prepare()"
        )


def _split(info: Any, split: str | None, folder: str, where: str) -> str:
    there = sorted(info.splits)
    if split is None and len(there) == 1:
        return there[0]
    if split in there:
        return split
    if split is None:
        raise InputError(f"{where}.split is not set: {folder} holds {', '.join(there)}; name one")
    hint = "; part takes slices of it" if "[" in split else ""
    raise InputError(
        f"{where}.split: {folder} has no split {split!r}; its splits are: {', '.join(there)}{hint}"
    )


def _require_all(shards: list[str], lengths: list[int], where: str) -> None:
    """Every shard is there, can be opened and has the records that dataset_info.json says."""
    missing = [path for path in shards if not os.path.isfile(path)]
    if missing:
        raise InputError(
            f"{where}.path: {len(missing)} of {len(shards)} shards are missing, the first is "
            f"{missing[0]}; copy the data set again"
        )
    sizes = RecordShards(shards, where).sizes
    for path, size, length in zip(shards, sizes, lengths, strict=True):
        if size != length:
            raise InputError(
                f"{where}.path: {path} has {size:,} records and {_INFO} says {length:,}; "
                "copy the data set again"
            )


def _feature(features: Any, key: str, option: str, folder: str) -> Any:
    """The feature that `key` names, such as "image" or "captions/text"."""
    for name in key.split("/"):
        features = getattr(features, "feature", features)  # what a Sequence is made of
        there = sorted(features) if hasattr(features, "keys") else []
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(
                f"{option}: {folder} has no feature {key!r}{hint}; there are: "
                f"{', '.join(there) or 'none'}"
            )
        features = features[name]
    return features


def _undecoded(features: Any, tfds: Any) -> dict[str, Any]:
    """Decoders that leave all images as they are, those not asked for, too."""
    return {
        name: tfds.decode.SkipDecoding()
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }


def _at(example: Any, key: str) -> Any:
    for name in key.split("/"):
        example = example[name]
    return example


def _plain(value: Any) -> Any:
    """Text and Python numbers for bytes, numpy arrays and lists of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
