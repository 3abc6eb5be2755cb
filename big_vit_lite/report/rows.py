"""metrics.jsonl: one JSON object a line, `step` first, each step once and in order.

A row is in a local file when `add` returns, so a killed process loses at most the line it was
writing; an object on a store follows after half a minute, and before every checkpoint. What is
added to the last step afterwards (an evaluation) widens its line in place. NaN and inf, which JSON
does not have, are null.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping

from big_vit_lite import storage
from big_vit_lite.config import RunError
from big_vit_lite.report.lines import LocalLines, StoredLines
from big_vit_lite.storage import Place

Row = dict[str, float | None]


class Rows:
    """The metrics file of one run, open for writing.

    What is there already belongs to an earlier process: `resume` says how much of it counts.
    """

    def __init__(self, path: str | Place):
        self.path = storage.place(path)
        self._lines = (StoredLines if storage.is_store(self.path) else LocalLines)(self.path)
        self._start = 0  # where the last row's line begins
        self._last: Row | None = None

    def resume(self, step: int) -> None:
        """Keeps the rows up to `step`, each step once, in order; drops later ones and torn lines.

        The file is replaced atomically. Step 0 starts it anew.

        Raises:
            RunError: if it cannot be written.
        """
        with writing(self.path):
            self._resume(step)

    def _resume(self, step: int) -> None:
        kept = {row["step"]: row for row in read_rows(self.path) if row["step"] <= step}
        lines = [_line(kept[number]) for number in sorted(kept)]
        self._lines.replace(lines)
        self._start = sum(map(len, lines[:-1]))
        self._last = kept[max(kept)] if kept else None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values of a step, together with those the step has already.

        Raises:
            ValueError: if a later step was written before.
            RunError: if the file cannot be written.
        """
        last = self._last["step"] if self._last else 0
        if step < last:
            raise ValueError(f"row of step {step} after the row of step {last}")
        if self._last is None or step > last:
            self._start = self._lines.end()
            self._last = {"step": step}
        self._last |= {key: _number(value) for key, value in values.items() if key != "step"}
        line = _line(self._last)
        with writing(self.path):
            self._lines.write(self._start, line)

    def flush(self) -> None:
        """Returns when all rows are on the disk, so that no checkpoint is ahead of its rows."""
        with writing(self.path):
            self._lines.sync()

    def close(self) -> None:
        with writing(self.path):
            self._lines.close()


@contextlib.contextmanager
def writing(path: Place) -> Iterator[None]:
    """Makes an OSError from within a RunError: one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        what = "see that it can be reached" if storage.is_store(path) else "make room"
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; {what} and run the same command again"
        ) from None


def read_rows(path: str | Place) -> list[Row]:
    """The rows of a metrics file in its order; lines that are torn are left out, equal steps
    merged into the first of them. No file has no rows."""
    rows: dict[int, Row] = {}
    try:
        lines = storage.place(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.setdefault(row["step"], {}).update(row)
    return list(rows.values())


def _number(value: float) -> float | int | None:
    value = value if isinstance(value, int) else float(value)
    return value if math.isfinite(value) else None


def _line(row: Row) -> bytes:
    ordered = {"step": row["step"], **{k: v for k, v in row.items() if k != "step"}}
    return json.dumps(ordered, allow_nan=False).encode() + b"\n"
