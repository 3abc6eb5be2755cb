"""The columns of a table that are wanted, as compact arrays: ten million rows fit in memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.sources import columns

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".jsonl": None, ".ndjson": None}
"""Names that tables end with, and what stands between their values; None: JSON lines."""

_CHUNK = 1 << 16  # rows that are Python objects at a time


@dataclass(frozen=True)
class Rows:
    """The rows of a table, column by column.

    Attributes:
      images: path of each row; null or empty where there is none.
      captions: text or list of texts of each row, or None where captions are not wanted.
      label_values: the different labels as text, None among them where one is missing.
      label_counts: how often each stands there.
      label_codes: of each row, its place in `label_values`.
      lines: whether row i stands in line `i + first_line`; else only its number is known.
    """

    images: pa.LargeStringArray
    captions: pa.Array | None
    label_values: Sequence[str | None]
    label_counts: Sequence[int]
    label_codes: Int[np.ndarray, " rows"]
    first_line: int
    lines: bool

    def line(self, row: int) -> str:
        """Where a row stands, for error texts."""
        return f"line {row + self.first_line}" if self.lines else f"row {row + 1}"


def read_rows(path: str, keys: Mapping[str, str], where: str) -> Rows:
    """Reads the columns `keys` ("image", "label", "caption" -> name) of a table.

    CSV and TSV have column names in the first line and quote by RFC 4180; a .csv file whose first
    line has tabs and no commas is taken as TSV.

    Raises:
      InputError: unknown ending, a missing column, or a line that cannot be read; names it.
      OSError: the file cannot be read.
    """
    ending = next((ending for ending in ENDINGS if path.lower().endswith(ending)), None)
    if ending is None:
        raise InputError(
            f"{where}.path: {path} is no table; tables end with {', '.join(ENDINGS)} "
            "(unpack a compressed one)"
        )
    read = _read_json if ENDINGS[ending] is None else _read_csv
    return read(path, ENDINGS[ending], keys, where)


def _read_csv(path: str, delimiter: str, keys: Mapping[str, str], where: str) -> Rows:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header, delimiter = _header(path, delimiter, where)
    for what, key in keys.items():
        columns.require(key, header, f"{where}.{what}_key", path)
    wanted = list(dict.fromkeys(keys.values()))

    def read(threads: bool) -> pa.Table:
        with files.open_binary(path) as file:
            return arrow_csv.read_csv(
                file,
                arrow_csv.ReadOptions(use_threads=threads),
                arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                arrow_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types={name: pa.large_string() for name in wanted},
                    strings_can_be_null=False,
                ),
            )

    try:
        try:
            table = read(threads=True)
        except pa.ArrowInvalid:
            table = read(threads=False)  # says in which row
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            f"{where}.path: {path} cannot be read ({files.why(error)}); quote values that hold "
            f"{'tabs' if delimiter == chr(9) else 'commas'} or quotes, and write it as UTF-8"
        ) from error
    found = {what: table.column(key).combine_chunks() for what, key in keys.items()}
    found = {what: _whole(column, pa.large_string()) for what, column in found.items()}
    labels = _encoded(found["label"]) if "label" in found else ((), (), np.zeros(0, np.int32))
    if delimiter == "\t" and "caption" in found:
        _refuse_line_breaks(found["caption"], path, where)
    lines = _count_lines(path) == len(table) + 1  # false where values hold line breaks
    return Rows(found["image"], found.get("caption"), *labels, first_line=2, lines=lines)


def _whole(column: Any, kind: pa.DataType) -> pa.Array:
    """One array of a column's chunks; an empty column has none."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks else pa.array([], kind)
    return column


def _header(path: str, delimiter: str, where: str) -> tuple[list[str], str]:
    with files.open_binary(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
        try:
            first = lines.readline(1 << 20)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{where}.path: {path} cannot be read ({error.reason}); write it as UTF-8"
            ) from error
        finally:
            lines.detach()
    if not first.strip():
        raise InputError(f"{where}.path: {path} is empty; its first line holds the column names")
    if "\t" in first and "," not in first:
        delimiter = "\t"
    return next(csv.reader([first], delimiter=delimiter)), delimiter


def _encoded(column: pa.Array) -> tuple[list[str | None], list[int], Int[np.ndarray, " rows"]]:
    """Different values, how often each occurs, and the place of each row's among them."""
    encoded = column.dictionary_encode("encode")  # null is a value, too
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    values = encoded.dictionary.to_pylist()
    return values, np.bincount(codes, minlength=len(values)).tolist(), codes


def _count_lines(path: str) -> int:
    count, last = 0, b""
    with files.open_binary(path) as file:
        while block := file.read(16 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _refuse_line_breaks(captions: Any, path: str, where: str) -> None:
    """A quote that opens a value and is closed nowhere takes the following lines in."""
    import pyarrow.compute as pc

    broken = pc.match_substring(captions, "\n")
    if pc.any(broken).as_py():
        row = pc.index(broken, True).as_py()
        raise InputError(
            f"{where}.path: {path}: the caption {captions[row].as_py()[:40]!r} ... goes over "
            "several lines: a quote that begins a value must be closed, and quotes inside doubled; "
            'write "" for each, and quotes around the value'
        )


def _read_json(path: str, _: None, keys: Mapping[str, str], where: str) -> Rows:
    import pyarrow as pa

    kinds = {
        "image": pa.large_string(),
        "label": pa.large_string(),
        "caption": pa.large_list(pa.large_string()),
    }
    chunks: dict[str, list[pa.Array]] = {what: [] for what in keys}
    first: dict[str, Any] | None = None
    for rows in _chunks(_objects(path, where)):
        first = first or rows[0]
        for what, key in keys.items():
            values = [_USABLE[what](row.get(key)) for row in rows]
            chunks[what].append(pa.array(values, kinds[what]))
    found = {
        what: _whole(pa.chunked_array(parts, kinds[what]).combine_chunks(), kinds[what])
        for what, parts in chunks.items()
    }
    for what, key in keys.items():
        if first is not None and found[what].null_count == len(found[what]) and key not in first:
            columns.require(key, list(first), f"{where}.{what}_key", path, "field")
    labels = _encoded(found["label"]) if "label" in found else ((), (), np.zeros(0, np.int32))
    return Rows(found["image"], found.get("caption"), *labels, first_line=1, lines=True)


def _objects(path: str, where: str) -> Iterator[dict[str, Any]]:
    with files.open_binary(path) as file:
        blank = None
        for number, line in enumerate(file, 1):
            if not line.strip():
                blank = blank or number
                continue
            try:
                value = json.loads(line)
                reason = f"not an object but {type(value).__name__}"
            except ValueError as error:
                value, reason = None, files.why(error)
            if blank is not None:
                number, value, reason = blank, None, "it is empty"
            if not isinstance(value, dict):
                raise InputError(
                    f"{where}.path: {path}, line {number} cannot be read as JSON ({reason}); "
                    "each line is one object"
                )
            yield value


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _label(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    return str(value) if isinstance(value, int | str) else None


def _captions(value: Any) -> list[str | None] | None:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return [value] if isinstance(value, str) else None


_USABLE = {"image": _text, "label": _label, "caption": _captions}
