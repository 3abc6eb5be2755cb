"""Writes the examples of any source into shards; the logic of tools/prepare.py.

What lies in the folder OUT for a split NAME:

    NAME-00000-of-00010.arrayrecord   examples (or .parquet)
    checksums.json and others         see `prepared`
    .prepare-NAME/                    while it is unfinished: its options, notes on finished shards

A shard appears under its name in one rename, when it is whole and its notes are written. So a run
that was killed goes on with the shards that lack. The bytes depend on the examples, the options
and the versions of the image libraries alone, not on the number of workers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from big_vit_lite.config import InputError, RunError, Split
from big_vit_lite.data import files, prepared, records, shard_writers, sources
from big_vit_lite.data.computed import Computed
from big_vit_lite.data.prepared import Shard
from big_vit_lite.data.reencode import Reencode
from big_vit_lite.data.sources.base import BadExample, Example, Source
from big_vit_lite.data.transforms.op import ImageFault

SAMPLE = 64  # examples from which the size of all is estimated
DRAWN_LATER = {"transform", "text", "captions", "sampler", "repeats", "weight"}
"""Fields of a split that say how examples are used, not which they are."""


@dataclass(frozen=True)
class Options:
    """How shards are written.

    Attributes:
      out: the folder, made where it is not there.
      name: of the split in the names of the shards.
      format: of the shards.
      images: what is done to the images, or what stands in their place.
      shuffle_seed: of the order of the examples over all shards; None: that of the source.
      shards: how many; None: as many as have about `shard_mib` MiB each.
      skip_limit: most examples that may be left out.
      workers: threads, each of which writes a shard.
    """

    out: Path
    name: str = "train"
    format: shard_writers.Format = "arrayrecord"
    images: Reencode | Computed = Reencode()
    shuffle_seed: int | None = None
    shards: int | None = None
    shard_mib: int = 256
    skip_limit: int = 100
    workers: int = 1


@dataclass
class Counts:
    """How far it is, added to by all workers."""

    total: int
    done: int = 0
    skipped: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, done: int = 0, skipped: int = 0) -> int:
        with self.lock:
            self.done += done
            self.skipped += skipped
            return self.skipped


def prepare(
    split: Split,
    options: Options,
    say: Callable[[str], None] = print,
    progress: Callable[[Counts], None] = lambda counts: None,
    where: str = "data.train",
) -> Counts:
    """Writes what lacks of the shards of `split`.

    Args:
      say: gets a line about each example that is left out and about each stage.
      progress: called some times a second.

    Raises:
      InputError: nothing to read, other options than before, or too little space, before anything
        is written.
      RunError: the disk is full, or more than `skip_limit` examples cannot be used. What is
        finished stays.
    """
    source = sources.build(split, where)
    try:
        return _Preparation(source, split, options, say).run(progress)
    except OSError as error:
        raise RunError(
            f"{error.filename or options.out}: cannot be written ({files.why(error)}); start again "
            "when it can: finished shards are kept"
        ) from error


class _Preparation:
    def __init__(self, source: Source, split: Split, options: Options, say: Callable[[str], None]):
        self._source, self._split, self._options, self._say = source, split, options, say
        self._work = options.out / f".prepare-{options.name}"
        self._holds = options.images.holds
        wanted = sources.columns_of(split)
        keys = {"label": wanted.labels, "captions": wanted.captions}
        self._keys = {key for key, there in keys.items() if there}
        self._with_labels = options.format == "arrayrecord" and wanted.labels
        order = np.arange(len(source))
        if options.shuffle_seed is not None:
            seeds = np.random.SeedSequence(options.shuffle_seed)
            order = np.random.Generator(np.random.Philox(seeds)).permutation(len(source))
        self._order = order
        self._stop = threading.Event()

    def run(self, progress: Callable[[Counts], None]) -> Counts:
        settings = self._settings()
        self._refuse_others(settings)
        size = self._mean_bytes()
        names = self._names(size)
        finished = self._finished(names)
        rows = {
            name: self._rows(i, len(names)) for i, name in enumerate(names) if name not in finished
        }
        self._require_space(int(size * sum(map(len, rows.values()))))
        self._work.mkdir(parents=True, exist_ok=True)
        with prepared.locked(self._work):
            prepared.write_json(self._work / "settings.json", settings)
            for left in self._work.glob("*.part"):
                left.unlink()
            if finished:
                self._say(f"{len(finished)} of {len(names)} shards are there already")
            counts = Counts(len(self._source))
            for shard in finished.values():
                counts.add(shard.records + len(shard.skipped), len(shard.skipped))
            finished |= self._write_all(rows, size, counts, progress)
            progress(counts)
            if counts.skipped == counts.total:
                raise RunError(f"{self._options.out}: none of the examples could be used")
            self._finish({name: finished[name] for name in names}, settings)
            shutil.rmtree(self._work)
        return counts

    # What was asked for, then and now.

    def _settings(self) -> dict[str, Any]:
        """All that the bytes depend on, under the names of the command's options."""
        options = self._options
        fields = self._split.model_dump(mode="json", exclude=DRAWN_LATER)
        if self._split.path:
            fields["path"] = files.normal(self._split.path)
            if not files.is_url(fields["path"]):
                fields["path"] = os.path.abspath(fields["path"])
        fields |= options.images.settings()
        fields |= {"to": options.format, "shuffle_seed": options.shuffle_seed}
        fields |= {"shards": options.shards, "number of examples": len(self._source)}
        fields["shard_mib"] = options.shard_mib if options.shards is None else None
        return {key: value for key, value in fields.items() if value is not None}

    def _refuse_others(self, settings: dict[str, Any]) -> None:
        out, name = self._options.out, self._options.name
        if out.exists() and not out.is_dir():
            raise InputError(f"--out: {out} is a file; give a folder")
        checksums = prepared.checksums(out)
        try:
            before = json.loads((self._work / "settings.json").read_bytes())
        except (FileNotFoundError, ValueError):
            before = checksums["prepared"].get(name)
        shard = re.compile(rf"{re.escape(name)}-\d+-of-\d+\..*")
        others = sorted(path for path in out.glob("*") if shard.fullmatch(path.name))
        if before is None and others:
            raise InputError(
                f"--out: {others[0]} was not written by this tool; give an empty folder"
            )
        if before is not None and before != settings:
            keys = sorted(key for key in before | settings if before.get(key) != settings.get(key))
            told = ", ".join(
                f"{key} was {before.get(key, 'none')} and is {settings.get(key, 'none')}"
                for key in keys
            )
            raise InputError(
                f"--out: {name!r} in {out} was prepared otherwise: {told}; give the same options, "
                "or another --out"
            )
        schema = out / records.SCHEMA
        if self._with_labels and schema.exists():
            known = records.read_schema(out, "--out").class_names
            if known not in (None, self._source.class_names):
                raise InputError(
                    f"--out: {schema} names {len(known)} other classes than this split's "
                    f"{len(self._source.class_names)}; give --class_names, or another --out"
                )

    # How much there is.

    def _mean_bytes(self) -> float:
        """Of an example as stored, from some that lie evenly over the source."""
        n, sizes = len(self._source), []
        for row in np.unique(np.linspace(0, n - 1, SAMPLE).astype(int)).tolist():
            with suppress(BadExample):
                example = self._example(row, self._options.images)
                texts = sum(map(len, example.get("captions", ())))
                sizes.append(len(example["image"]) + texts + 32)
        return float(np.mean(sizes)) if sizes else 0.0

    def _names(self, mean_bytes: float) -> list[str]:
        wanted = self._options.shards
        if wanted is None:
            wanted = -(-int(mean_bytes * len(self._source)) // (self._options.shard_mib << 20))
        total = min(max(1, wanted), len(self._source))
        name, ending = self._options.name, self._options.format
        return [f"{name}-{i:05d}-of-{total:05d}.{ending}" for i in range(total)]

    def _rows(self, shard: int, shards: int) -> list[int]:
        n = len(self._order)
        return self._order[shard * n // shards : (shard + 1) * n // shards].tolist()

    def _require_space(self, needed: int) -> None:
        out = self._options.out.absolute()
        free = shutil.disk_usage(next(p for p in (out, *out.parents) if p.exists())).free
        if needed > free:
            raise InputError(
                f"--out: {self._options.out} has {_gib(free)} free and the shards need about "
                f"{_gib(needed)}: {_gib(needed - free)} are missing"
            )

    # One example, one shard, all shards.

    def _examples(self, rows: list[int]) -> Iterator[tuple[int, Example | BadExample]]:
        """Each row's example as it is stored, or why it cannot be used."""
        for row, image in zip(rows, self._options.images.for_rows(rows), strict=True):
            if self._stop.is_set():
                raise _Stopped
            try:
                example: Example | BadExample = self._example(row, image)
            except BadExample as error:
                example = error
            yield row, example

    def _example(self, row: int, stored: Callable[[Any], bytes]) -> Example:
        """As it is stored. Raises BadExample, naming it, where it cannot be used."""
        try:
            example = self._source[row]
            example["image"] = stored(example["image"])
        except (InputError, RunError):
            raise
        except ImageFault as error:
            raise BadExample(f"{self._source.name_of(row)}: {error}") from error
        except Exception as error:
            raise BadExample(
                f"{self._source.name_of(row)}: {type(error).__name__}: {error}"
            ) from error
        return example

    def _write_shard(self, name: str, rows: list[int], counts: Counts) -> Shard:
        """Raises OSError or RuntimeError where the disk does not take it."""
        part = self._work / f"{name}.part"
        labels, skipped = [], []
        classes = self._source.class_names
        try:
            if self._stop.is_set():
                raise _Stopped
            writer = shard_writers.open_writer(
                self._options.format, part, self._keys, classes, self._holds
            )
            try:
                for row, example in self._examples(rows):
                    if isinstance(example, BadExample):
                        skipped.append(" ".join(str(example).splitlines()))
                        self._note(skipped[-1], counts)
                        continue
                    writer.write(example, self._origin(row))
                    labels += [example["label"]] if "label" in example else []
                    counts.add(done=1)
            except BaseException:
                with suppress(Exception):  # the first fault is the one to tell
                    writer.close()
                raise
            writer.close()
            size = prepared.sync(part)
            notes = Shard(prepared.sha256(part), size, len(rows) - len(skipped), labels, skipped)
            prepared.write_json(self._work / f"{name}.json", dataclasses.asdict(notes))
            os.replace(part, self._options.out / name)
        except BaseException:
            self._stop.set()
            raise
        finally:
            part.unlink(missing_ok=True)
        return notes

    def _note(self, fault: str, counts: Counts) -> None:
        limit, count = self._options.skip_limit, counts.add(done=1, skipped=1)
        if count > limit:
            raise RunError(
                f"{fault}. With it {count} examples cannot be used, and --skip_limit is {limit}; "
                "repair the data or raise the limit"
            )
        self._say(f"left out {fault} ({count} of at most {limit} examples)")

    def _origin(self, row: int) -> str:
        """The example's name, without the folder that all share."""
        return self._source.name_of(row).removeprefix(f"{files.normal(self._split.path or '')}/")

    def _write_all(
        self,
        rows: dict[str, list[int]],
        mean_bytes: float,
        counts: Counts,
        progress: Callable[[Counts], None],
    ) -> dict[str, Shard]:
        with ThreadPoolExecutor(self._options.workers) as pool:
            jobs = {
                pool.submit(self._write_shard, name, those, counts): name
                for name, those in rows.items()
            }
            try:
                while not all(job.done() for job in jobs):
                    wait(jobs, timeout=0.25, return_when=FIRST_EXCEPTION)
                    progress(counts)
            finally:
                self._stop.set()
        faults = {name: job.exception() for job, name in jobs.items() if job.exception()}
        for name, error in faults.items():
            if not isinstance(error, _Stopped):
                left = sum(len(rows[name]) for name in faults)
                self._fail(name, error, int(mean_bytes * left))
        return {name: job.result() for job, name in jobs.items()}

    def _fail(self, name: str, error: BaseException, needed: int) -> None:
        if shard_writers.is_full(error):
            free = shutil.disk_usage(self._options.out).free
            raise RunError(
                f"{self._options.out / name}: the disk is full; the rest needs about "
                f"{_gib(needed)} and {_gib(free)} are free. Make room for {_gib(needed - free)} "
                "and start again: finished shards are kept"
            ) from error
        if isinstance(error, OSError) or type(error) is RuntimeError:  # the latter: ArrayRecord's
            raise RunError(
                f"{self._options.out / name}: cannot be written ({files.why(error)}); start again "
                "when it can: finished shards are kept"
            ) from error
        raise error

    # What is finished.

    def _finished(self, names: list[str]) -> dict[str, Shard]:
        """Shards that are there as they were written, by their notes or by checksums.json."""
        found = prepared.finished(self._options.out, self._work, names, self._with_labels)
        kept = {}
        for name in names:
            path = self._options.out / name
            if name in found and path.is_file():
                if path.stat().st_size == found[name].bytes:
                    kept[name] = found[name]
                else:
                    self._say(f"{path} has changed since it was written, and is written again")
        return kept

    def _finish(self, shards: dict[str, Shard], settings: dict[str, Any]) -> None:
        """Writes the files that all shards share, with what they say of other splits."""
        options = self._options
        if options.format == "arrayrecord":
            count = sum(notes.records for notes in shards.values())
            names = self._source.class_names if self._with_labels else None
            prepared.write_schema(
                options.out, {options.name: count}, names, "captions" in self._keys, self._holds
            )
        prepared.write_checksums(options.out, options.name, shards, settings, self._with_labels)


class _Stopped(Exception):
    """Another shard has failed."""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(size, 0) / 2**20:.1f} MiB"
