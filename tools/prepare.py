"""Writes any data set that can be trained from as ArrayRecord or Parquet shards.

    python tools/prepare.py --source folder --path photos --out shards --resize_small 512
    python tools/prepare.py --verify --out shards

Labels are stored with the images; captions where --caption_key is given, and then labels only with
--label_key. Started again with the same options it goes on where it was stopped. The shards are
read by source=arrayrecord or source=parquet with path=OUT and split=NAME.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from big_vit_lite import config, report
from big_vit_lite.config import Fault, Option
from big_vit_lite.config.fields import describe, fields_of
from big_vit_lite.config.load import refuse
from big_vit_lite.data import parts, prepare, prepared
from big_vit_lite.data.reencode import Reencode


def whole(least: int, most: int | None = None) -> Any:
    """A type of options: whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        number = int(text) if text.lstrip("-").isdigit() else least - 1
        if number < least or (most is not None and number > most):
            to = f" to {most}" if most is not None else " on"
            raise ValueError(f"wants a whole number from {least}{to}")
        return number

    return read


def one_of(*choices: str) -> Any:
    """A type of options: one of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}")
        return text

    return read


OPTIONS = (
    Option("out", "DIR", "Local folder that takes the shards.", Path, required=True),
    Option("to", "FORMAT", "arrayrecord (default) or parquet.", one_of("arrayrecord", "parquet")),
    Option("name", "NAME", "Name of the split in the shards. Default: --split, or train."),
    Option(
        "resize_small",
        "PIXELS",
        "Averages images down until their shorter side has this length; smaller ones stay. What "
        "was resized has no orientation tag any more: give --exif where the tags are to count.",
        whole(1, 8192),
    ),
    Option("exif", "", "Turns images upright as their orientation tag says, for good."),
    Option(
        "format",
        "FORMAT",
        "jpeg, png or webp for all images. By default images stay the bytes they are, jpeg where "
        "they were resized or turned, png where the source holds pixels.",
        one_of("jpeg", "png", "webp"),
    ),
    Option("quality", "Q", "Of jpeg and webp, 1 to 100. Default 95.", whole(1, 100)),
    Option("unchecked", "", "Does not decode images that stay as they are: broken ones stay, too."),
    Option(
        "shuffle_seed",
        "SEED",
        "Shuffles the examples over all shards. By default they keep the order of the source.",
        whole(0, 2**32 - 1),
    ),
    Option("shards", "N", "Number of shards. Default: by --shard_mib.", whole(1, 99_999)),
    Option("shard_mib", "MIB", "Size of a shard, about. Default 256.", whole(1)),
    Option("skip_limit", "N", "Most examples that may be left out as bad. Default 100.", whole(0)),
    Option("workers", "N", "Threads; never changes a byte. Default: one for each core.", whole(1)),
    Option("verify", "", "Only compares all files in --out with their checksums."),
)
FIELDS = tuple(
    Option(field.key, describe(field.type), field.meaning)
    for field in fields_of(config.Split)
    if field.key not in prepare.DRAWN_LATER
)


def main(argv: list[str]) -> None:
    values, faults = config.options_line(
        argv, program="python tools/prepare.py", about=__doc__, options=(*FIELDS, *OPTIONS)
    )
    if "://" in str(values.get("out", "")) or ":/" in str(values.get("out", "")):
        wanted = "wants a local folder; copy it to the store when it is finished"
        faults.append(Fault("--out", wanted, str(values["out"])))
    name = values.get("name") or values.get("split") or "train"
    if not re.fullmatch(r"[\w.-]+", name):
        faults.append(Fault("--name", "wants letters, digits, dots and dashes", name))
    if "shards" in values and "shard_mib" in values:
        faults.append(Fault("--shard_mib", "--shards sets the number already; keep one of them"))
    if values.get("verify"):
        if faults:
            raise refuse(faults)
        files, size = prepared.verify(values["out"])
        print(f"{values['out']}: {files} files, {size:,} bytes, all as they were written")
        return
    split = read_split({f.name: values[f.name] for f in FIELDS if f.name in values}, faults)
    options = read_options({**values, "name": name})
    display = report.Counting()
    try:
        counts = prepare.prepare(split, options, display.say, display.update)
    except (config.InputError, config.RunError) as error:
        raise type(error)(_as_options(str(error))) from error
    finally:
        display.close()
    left_out = f", {counts.skipped:,} left out ({options.out}/skipped.txt)" * bool(counts.skipped)
    print(f"{options.out}: {counts.total - counts.skipped:,} examples of {options.name}{left_out}")


def read_split(values: dict[str, str], faults: list[Fault]) -> config.Split:
    """The split that options describe.

    Raises:
      InputError: one line for each of `faults` and for each that its fields have.
    """
    train = {"transform": "", "text": "captions" if "caption_key" in values else ""}
    overrides = [(f"data.train.{name}", value) for name, value in values.items()]

    def check(run: config.Run) -> Any:
        for finding in parts.check(run.data.train.part):
            yield Fault("data.train.part", finding, run.data.train.part)

    try:
        base = {"steps": 1, "data": {"batch_size": 1, "train": train}}
        run = config.load(base, overrides, [check])
    except config.InputError as error:
        found = [Fault(_as_options(f.key), f.wanted, f.value) for f in error.faults]
        raise refuse([*faults, *found]) from None
    if faults:
        raise refuse(faults)
    return run.data.train


def read_options(values: dict[str, Any]) -> prepare.Options:
    def given(*names: str) -> dict[str, Any]:
        return {name: values[name] for name in names if name in values}

    images = Reencode(**given("resize_small", "exif", "format", "quality", "unchecked"))
    return prepare.Options(
        format=values.get("to", "arrayrecord"),
        images=images,
        workers=values.get("workers") or os.cpu_count() or 1,
        **given("out", "name", "shuffle_seed", "shards", "shard_mib", "skip_limit"),
    )


def _as_options(text: str) -> str:
    """Names of fields, which the package writes as in a config, as options of this command."""
    for key, option in (
        ("data.train.text is set", "--caption_key is set"),
        ("--config.data.train.", "--"),
        ("data.train.", "--"),
    ):
        text = text.replace(key, option)
    return text


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
