"""Tar shards in WebDataset's layout, each example read alone: KEY.jpg with KEY.cls, .txt or .json.

An index of every shard is made when it is first opened (tar_index.py). Reading an example is then
one read of a few adjacent members.
"""

from __future__ import annotations

import bisect
import json
import re
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data import files
from big_vit_lite.data.sources import classes, columns, shards
from big_vit_lite.data.sources.base import BadExample, Columns, Example, Source, captions_of
from big_vit_lite.data.sources.tar_headers import BLOCK
from big_vit_lite.data.sources.tar_index import Index, open_index

IMAGES = ("jpg", "jpeg", "png", "webp")
NEAR = 64 << 10  # bytes between two members that are read along rather than skipped
_JSON = re.compile(r"((?:.*\.)?json)\.(.+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Field:
    """A member's ending and, inside a JSON object, the names that lead to the value."""

    member: str
    inside: tuple[str, ...] = ()

    @classmethod
    def parse(cls, key: str) -> Field:
        """ "cls", "txt" or "json.FIELD"; "json.a.b" is field b of the object in field a."""
        if match := _JSON.fullmatch(key):
            return cls(match[1].lower(), tuple(match[2].split(".")))
        return cls(key.lower())

    def value(self, data: bytes) -> Any:
        """Raises ValueError where the bytes are no text or no JSON; None where a field lacks."""
        if not self.inside:
            return data.decode("utf-8-sig").strip()
        value = json.loads(data)
        for name in self.inside:
            value = value.get(name) if isinstance(value, dict) else None
        return value


class Tar(Source):
    """Examples of one or many shards, in the order of the shards and of their first members.

    Args:
      path: a shard, a folder of *.tar, or a pattern; local or a URL.
      split: shards SPLIT-*; None where a folder holds only one split.
      wanted: image: one ending, None: the first of jpg, jpeg, png, webp that an example has.
        label: the ending of a text (default cls) or json.FIELD; caption: the same (default txt).
      names: class names in the order of the label numbers; None: see classes.from_counts.

    Raises:
      InputError: nothing at the path, a shard is missing, compressed or broken, or no example has
        what is wanted.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        wanted: Columns,
        names: tuple[str, ...] | None = None,
        where: str = "data.train",
    ):
        self._shards = _shards(path, split, where)
        self._images = (wanted.image.lower(),) if wanted.image else IMAGES
        self._label = Field.parse(wanted.label or "cls") if wanted.labels else None
        self._caption = Field.parse(wanted.caption or "txt") if wanted.captions else None
        keep = frozenset({self._label.member} if self._label else ())
        with ThreadPoolExecutor(16) as pool:  # stores answer slowly, and all at once
            indices = list(pool.map(lambda shard: open_index(shard, keep, where), self._shards))
        self._indices: list[Index] = indices
        self._ends = np.cumsum([len(index) for index in indices]).tolist()
        self._ranges = files.Ranges()
        if not len(self):
            raise InputError(f"{where}.path: {self._shards[0]} holds no members such as KEY.jpg")
        self._require_members(where)
        self.class_names = ()
        self._numbers = np.zeros(len(self), np.int32)
        if self._label:
            self._number_labels(self._label, names)
            self._forget_contents()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Example:
        shard, row = self._place(i)
        members = self._indices[shard].members(row)
        image = next((field for field in self._images if field in members), None)
        if image is None:
            raise BadExample(f"{self.name_of(i)}: has no image (.{', .'.join(self._images)})")
        wanted = {image}
        for field in (self._label, self._caption):
            if field is None:
                continue
            if field.member not in members:
                raise BadExample(f"{self.name_of(i)}: has no member .{field.member}")
            if field is self._caption or self._numbers[i] < 0:
                wanted.add(field.member)
        data = self._read(shard, {field: members[field] for field in wanted})
        if not data[image]:
            raise BadExample(f"{self.name_of(i)}: .{image} is empty")
        example: Example = {"image": data[image]}
        if self._label:
            if self._numbers[i] < 0:
                value = self._value(i, self._label, data)
                raise BadExample(f"{self.name_of(i)}: {self._classes.wrong(value)}")
            example["label"] = int(self._numbers[i])
        if self._caption:
            value = self._value(i, self._caption, data)
            what = ".".join((self._caption.member, *self._caption.inside))
            example["captions"] = captions_of(value, self.name_of(i), what)
        return example

    def labels(self) -> Int[np.ndarray, " n"]:
        return np.maximum(self._numbers, 0).astype(np.int64)

    def name_of(self, i: int) -> str:
        shard, row = self._place(i)
        key = self._indices[shard].keys[row].decode("utf-8", "replace")
        return f"{self._shards[shard]}, {key}"

    def _place(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard = bisect.bisect_right(self._ends, i)
        return shard, i - (self._ends[shard - 1] if shard else 0)

    def _value(self, i: int, field: Field, data: dict[str, bytes]) -> Any:
        try:
            return field.value(data[field.member])
        except ValueError as error:
            kind = "JSON" if field.inside else "UTF-8 text"
            raise BadExample(
                f"{self.name_of(i)}: .{field.member} is no {kind} ({files.why(error)})"
            ) from None

    def _read(self, shard: int, members: dict[str, int]) -> dict[str, bytes]:
        """The bytes of some members of one example, in as few reads as their places allow."""
        index, found = self._indices[shard], {}
        spans: list[tuple[int, int, list[str]]] = []
        for field in sorted(members, key=lambda field: index.start[members[field]]):
            row = members[field]
            start, end = int(index.start[row]) - BLOCK, int(index.start[row] + index.size[row])
            if spans and start - spans[-1][1] <= NEAR:
                first, _, fields = spans.pop()
                spans.append((first, end, [*fields, field]))
            else:
                spans.append((start, end, [field]))
        for first, end, fields in spans:
            data = self._bytes(shard, first, end - first)
            for field in fields:
                row = members[field]
                start = int(index.start[row]) - first
                # The member's own header tells whether the shard still is what was indexed.
                if zlib.crc32(data[start - BLOCK : start]) != index.check[row]:
                    raise RunError(self._changed(shard))
                found[field] = data[start : start + int(index.size[row])]
        return found

    def _bytes(self, shard: int, start: int, size: int) -> bytes:
        path = self._shards[shard]
        try:
            data = self._ranges.read(path, start, size, self._indices[shard].fingerprint)
        except files.Changed:
            raise RunError(self._changed(shard)) from None
        except OSError as error:
            raise RunError(
                f"{path}: cannot be read ({files.why(error)}); restore the shard and start again"
            ) from error
        if len(data) < size:
            raise RunError(self._changed(shard))
        return data

    def _changed(self, shard: int) -> str:
        return (
            f"{self._shards[shard]}: has changed since the run began; "
            "start again, so that it is indexed anew"
        )

    def _require_members(self, where: str) -> None:
        """Some example has an image, some a label and some a caption."""
        shard = self._shards[0]
        there = sorted({field for index in self._indices for field in index.fields})
        for key, field in (("label", self._label), ("caption", self._caption)):
            if field is not None:
                note = _about_dots(field.member, there)
                columns.require(field.member, there, f"{where}.{key}_key", shard, "member", note)
                self._require_inside(field, f"{where}.{key}_key")
        if not set(self._images) & set(there):
            note = _about_dots(self._images[0], there)
            columns.require(self._images[0], there, f"{where}.image_key", shard, "member", note)

    def _require_inside(self, field: Field, key: str) -> None:
        """The first few JSON members know the field: one that none knows is misspelt."""
        if not field.inside:
            return
        seen: set[str] = set()
        for i in range(min(10, len(self))):
            shard, row = self._place(i)
            members = self._indices[shard].members(row)
            if field.member not in members:
                continue
            try:
                found = json.loads(
                    self._read(shard, {field.member: members[field.member]})[field.member]
                )
            except ValueError:
                continue  # reading the example says so
            seen |= set(found) if isinstance(found, dict) else set()
        if seen and field.inside[0] not in seen:
            named = f"{field.member}.{field.inside[0]}"
            options = [f"{field.member}.{name}" for name in sorted(seen)]
            columns.require(named, options, key, self._shards[0], "field")

    def _number_labels(self, field: Field, names: tuple[str, ...] | None) -> None:
        """Sets class names and the number of every example's label, -1 where it is no class."""
        codes: dict[str | int | None, int] = {}
        coded = np.empty(len(self), np.int32)
        start = 0
        for index in self._indices:
            values = _values(index.contents[field.member].all(), field)
            for i, value in enumerate(values, start):
                coded[i] = codes.setdefault(value, len(codes))
            start += len(index)
        counts = np.bincount(coded, minlength=len(codes)).tolist()
        self._classes = classes.from_counts(dict(zip(codes, counts, strict=True)), names)
        self.class_names = self._classes.names
        numbers = (self._classes.number(value) for value in codes)
        numbers = [-1 if number is None else number for number in numbers]
        self._numbers = np.array(numbers, np.int32)[coded]

    def _forget_contents(self) -> None:
        """The texts have become numbers; a million JSON objects need not stay in memory."""
        for index in self._indices:
            index.contents.clear()


def _about_dots(member: str, there: Sequence[str]) -> str:
    """What is said of a member that is there behind a longer key only."""
    dotted = next((name for name in there if name.endswith(f".{member}")), None)
    if dotted is None:
        return ""
    return (
        f". A key ends at the first dot of a file's name: of KEY.{dotted} the member is "
        f"{dotted!r}; have no other dot in the names"
    )


def _values(texts: Iterable[bytes], field: Field) -> Iterable[str | int | None]:
    for data in texts:
        try:
            value = field.value(data) if data else None
        except ValueError:
            value = None
        usable = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
        yield value if usable else None


def _shards(path: str, split: str | None, where: str) -> list[str]:
    path = files.normal(path)
    if not files.is_pattern(path) and files.is_dir(path):
        names = files.children(path)[1]
        packed = [name for name in names if name.endswith(_COMPRESSED)]
        if packed and not any(name.endswith(".tar") for name in names):
            raise InputError(
                f"{where}.path: {files.join(path, packed[0])} is compressed, which leaves no way "
                "to read one example; unpack it to a plain .tar (images are compressed already)"
            )
    return shards.find(path, split, ".tar", "tar", where)
