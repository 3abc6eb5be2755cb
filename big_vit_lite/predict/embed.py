"""embed: a vector for each image, into one file, resumable at any moment."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from big_vit_lite import report
from big_vit_lite.config import InputError, RunError
from big_vit_lite.data import files, prepared, shard_writers
from big_vit_lite.predict import compiled, finishing, identity, inputs, reading, stored
from big_vit_lite.predict.counts import Counts
from big_vit_lite.predict.reading import Images
from big_vit_lite.predict.rows import Rows, beside, first_difference, remove, settings_of

COMPARED = (*identity.SPACE, "computed_in", "dtype", "dimension", "images", "paths")
"""What must be as it was for the work to go on."""


def run(name: str, words: list[str], given: dict[str, Any]) -> None:
    """The command.

    Raises:
        InputError: wrong input, or an output that is there and was made otherwise.
        RunError: the disk is full, or the model gives no numbers; what is written is kept.
    """
    out = given["out"]
    if not out.parent.is_dir():
        raise InputError(f"--out: the folder {out.parent} is not there")
    before = _made(out)
    paths = inputs.find(words, given.get("skip_unreadable", False))
    _require_lines(paths)
    model = compiled.model_of(name, given)
    images = reading.images_of(model, paths, given)
    shape = jax.eval_shape(model.encode_image, compiled.blank(model, images)).shape
    settings = identity.of_model(model) | {
        "dtype": given.get("dtype", "float32"),
        "dimension": shape[-1],
        "images": len(paths),
        "paths": identity.of_paths(paths),
    }
    if before is not None:
        _refuse(identity.differences(before, settings, COMPARED), f"{out} was made", "")
        remove(beside(out, "partial"))
        print(f"{out} is complete already: {_told(before)}", file=sys.stderr)
        return
    rows = Rows(out, len(paths), shape[-1], settings["dtype"])
    try:
        rows.work.mkdir(exist_ok=True)
        with prepared.locked(rows.work, f"--out: another process is writing {out}"):
            _start(rows, settings, paths)
            _write(rows, model, images, given)
            finishing.finish(rows, settings)
    except OSError as error:
        _fail(rows, error)
    finally:
        rows.close()
    print(f"{out}: {_told({**settings, 'rows': rows.rows, 'left_out': rows.skipped})}")


def _made(out: Path) -> dict[str, Any] | None:
    if not out.exists():
        return None
    try:
        return stored.opened(out).about
    except InputError:
        raise InputError(
            f"--out: {out} is there already and was not written by this command, or is damaged: "
            "remove it, or name another file"
        ) from None


def _require_lines(paths: list[str]) -> None:
    """Raises InputError for a path that is no line of a text file."""
    for path in paths:
        if path.splitlines() != [path]:
            raise InputError(f"the name of {path!r} has a line break: rename the file")


def _refuse(differences: str, begun: str, more: str) -> None:
    if differences:
        raise InputError(
            f"--out: {begun} otherwise: {differences}{more}; name another file, or remove this one"
        )


def _start(rows: Rows, settings: dict[str, Any], paths: list[str]) -> None:
    """A new folder of work, or the one that is there, if it is of the same."""
    before = settings_of(rows.work)
    if before is None:
        _require_space(rows, len(paths))
        rows.begin(settings, paths)
        return
    told = identity.differences(before, settings, COMPARED)
    place = first_difference(rows.work, paths) if before["paths"] != settings["paths"] else ""
    _refuse(told, f"{rows.work} was begun", f" ({place})" if place else "")
    rows.resume()
    _require_space(rows, len(paths) - rows.seen)


def _require_space(rows: Rows, images: int) -> None:
    copies = 2 if rows.out.suffix == ".parquet" else 1
    needed = copies * images * rows.dimension * rows.dtype.itemsize
    free = shutil.disk_usage(rows.work).free
    if needed > free:
        raise InputError(
            f"--out: {rows.out} needs about {needed / 2**20:,.0f} MiB more, and {rows.work.parent} "
            f"has {free / 2**20:,.0f} MiB free"
        )


def _write(rows: Rows, model, images: Images, given: dict[str, Any]) -> None:
    """The rows that lack."""
    if rows.finished:
        return
    counts, display = Counts(len(images), rows.seen, rows.skipped), report.Counting("images")
    if rows.seen:
        display.say(f"{rows.work}: goes on from image {rows.seen + 1:,} of {len(images):,}")

    def features(params, seen):
        return {"features": model.encode_image(seen, params)}

    answer = compiled.Compiled(model, features, compiled.batch_size(given, len(images)))
    try:
        for batch, found in compiled.answers(answer, images, rows.seen):
            if batch.faults and not images.skip:
                batch = batch._replace(seen=batch.faults[0][0])
            lines = [] if not images.skip else compiled.unreadable(images, batch, display.say)
            paths = [images.paths[i] for i in batch.rows]
            none = np.zeros((0, rows.dimension))
            rows.add(found.get("features", none), paths, lines, batch.seen)
            counts.add(batch.seen, len(lines))
            display.update(counts)
            if batch.faults and not images.skip:
                rows.commit()
                kept = f". The {rows.rows:,} vectors before it are kept: start again"
                compiled.unreadable(images, batch, display.say, kept)
        rows.commit()
    finally:
        display.close()
    if not rows.rows:
        remove(rows.work)
        counts.require_some()


def _fail(rows: Rows, error: OSError) -> None:
    why = "the disk is full" if shard_writers.is_full(error) else files.why(error)
    raise RunError(
        f"{rows.out} cannot be written ({why}): start again when it can, what is written is kept in"
        f" {rows.work}"
    ) from error


def _told(about: dict[str, Any]) -> str:
    left_out = f", {about['left_out']:,} left out" if about.get("left_out") else ""
    return f"{about['rows']:,} vectors of {about['dimension']:,} {about['dtype']}{left_out}"
