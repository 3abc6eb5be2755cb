"""A table (CSV, TSV or JSON lines) that names image files and their labels or captions."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.sources import classes
from big_vit_lite.data.sources.base import BadExample, Columns, Example, Source, captions_of
from big_vit_lite.data.sources.table_rows import ENDINGS, Rows, read_rows


class Table(Source):
    """Rows of one table, in its order.

    Where captions are wanted, rows with the same path are one example: the captions of one image,
    in the order of the rows. It stands where the first of them does.

    Args:
      path: a .csv, .tsv, .tab, .jsonl or .ndjson file, or a folder that holds SPLIT.csv and so on;
        local or a URL. Images' paths are relative to the table's folder, absolute, or URLs.
      wanted: image: the column of paths (default path); label: of numbers or names (default
        label); caption: of a text, or in JSON of a list of texts (default caption).
      names: class names in the order of the label numbers; None: see classes.from_counts.

    Raises:
      InputError: no table there, one that cannot be read, a missing column, or no rows.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        wanted: Columns,
        names: tuple[str, ...] | None = None,
        where: str = "data.train",
    ):
        self._table = _find(files.normal(path), split, where)
        self._folder = files.parent(self._table)
        keys = {"image": wanted.image or "path"}
        if wanted.labels:
            keys["label"] = wanted.label or "label"
        if wanted.captions:
            keys["caption"] = wanted.caption or "caption"
        self._keys = keys
        self._rows: Rows = read_rows(self._table, keys, where)
        if not len(self._rows.images):
            raise InputError(f"{where}.path: {self._table} holds no rows below its column names")
        if first := self._rows.images[0].as_py():
            files.require(first, f"{where}.path: {self._table} names {first}")
        # Example i is the rows order[starts[i] : starts[i + 1]]; without groups, row i.
        self._order: Int[np.ndarray, " rows"] | None = None
        self._starts = np.arange(0)
        if wanted.captions:
            self._group()
        self.class_names = ()
        if wanted.labels:
            values, counts = self._rows.label_values, self._rows.label_counts
            self._classes = classes.from_counts(dict(zip(values, counts, strict=True)), names)
            self.class_names = self._classes.names
            numbers = (self._classes.number(value) for value in values)
            self._numbers = np.array([-1 if n is None else n for n in numbers], np.int64)

    def _group(self) -> None:
        """Puts rows with the same path together."""
        encoded = self._rows.images.dictionary_encode()  # numbered as they first occur
        if len(encoded.dictionary) == len(encoded):
            return
        of_row = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()
        self._order = np.argsort(of_row, kind="stable").astype(np.int32)
        examples = len(encoded.dictionary) + (encoded.null_count > 0)
        self._starts = np.searchsorted(of_row[self._order], np.arange(examples + 1))

    def __len__(self) -> int:
        return len(self._rows.images) if self._order is None else len(self._starts) - 1

    def __getitem__(self, i: int) -> Example:
        rows = self._rows_of(i)
        path = self._rows.images[rows[0]].as_py()
        if not path:
            raise BadExample(f"{self.name_of(i)}: column {self._keys['image']!r} names no file")
        example: Example = {}
        if "label" in self._keys:
            example["label"] = self._label(rows)
        if "caption" in self._keys:
            what, captions = f"column {self._keys['caption']!r}", ()
            for row in rows:
                found = self._rows.captions[row].as_py()
                captions += captions_of(found, self._name(row), what)
            example["captions"] = captions
        example["image"] = self._image(i, path)
        return example

    def _image(self, i: int, path: str) -> bytes:
        whole = files.is_url(path) or os.path.isabs(path)
        place = path if whole else files.join(self._folder, path)
        try:
            return files.read(place)
        except (OSError, ValueError) as error:
            raise BadExample(
                f"{self.name_of(i)}: the image cannot be read ({files.why(error)}); "
                "restore the file or take the row out"
            ) from error

    def _label(self, rows: list[int]) -> int:
        codes = self._rows.label_codes[rows]
        number = int(self._numbers[codes[0]])
        if number < 0:
            value = self._rows.label_values[codes[0]]
            raise BadExample(f"{self._name(rows[0])}: {self._classes.wrong(value)}")
        if (other := np.flatnonzero(codes != codes[0])).size:
            first, second = (self._rows.label_values[codes[k]] for k in (0, other[0]))
            raise BadExample(
                f"{self._name(rows[other[0]])}: label {second!r} of an image that has label "
                f"{first!r} in {self._rows.line(rows[0])}"
            )
        return number

    def labels(self) -> Int[np.ndarray, " n"]:
        if "label" not in self._keys:
            return np.zeros(len(self), np.int64)
        first = slice(None) if self._order is None else self._order[self._starts[:-1]]
        return np.maximum(self._numbers, 0)[self._rows.label_codes[first]]

    def name_of(self, i: int) -> str:
        return self._name(self._rows_of(i)[0])

    def _name(self, row: int) -> str:
        return f"{self._table}, {self._rows.line(row)} ({self._rows.images[row].as_py() or ''})"

    def _rows_of(self, i: int) -> list[int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        if self._order is None:
            return [i]
        return self._order[self._starts[i] : self._starts[i + 1]].tolist()


def _find(path: str, split: str | None, where: str) -> str:
    if files.is_file(path):
        return path
    listed = ", ".join(ENDINGS)
    if not files.is_dir(path):
        raise InputError(f"{where}.path: {path} does not exist; give a table ({listed})")
    tables = [name for name in files.children(path)[1] if name.endswith(tuple(ENDINGS))]
    if split is not None:
        named = [name for name in tables if name.rsplit(".", 1)[0] == split]
        if not named:
            raise InputError(
                f"{where}.split: {path} has no table {split!r}; its tables are: "
                f"{', '.join(tables[:10]) or 'none'}"
            )
        tables = named
    if not tables:
        raise InputError(f"{where}.path: {path} holds no table ({listed}); give the file")
    if len(tables) > 1:
        raise InputError(f"{where}.path: {path} holds {', '.join(tables[:10])}; give one of them")
    return files.join(path, tables[0])
