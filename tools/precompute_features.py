"""Computes once what a locked image tower makes of each image, for LiT (Zhai 2022).

    python tools/precompute_features.py --config configs/lit_b16.py:path=pairs,init=runs/vit \\
        --out features
    python -m big_vit_lite.train --config \\
        configs/lit_b16.py:path=pairs,init=runs/vit,features=features

The shards hold a vector for each example, its captions, and its label where the split names
label_key. The images are seen as the split's transform makes them, which must not draw at random.
Started again with the same options it goes on where it was stopped. All devices compute.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from big_vit_lite import assembly, checks, config, precompute, report
from big_vit_lite.config import Option
from big_vit_lite.data import prepare


def one_of(*choices: str) -> Any:
    """A type of options: one of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}")
        return text

    return read


def count(text: str) -> int:
    """A type of options: whole numbers from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError("wants a whole number from 1 on")
    return int(text)


OPTIONS = (
    Option("out", "DIR", "Local folder that takes the shards.", Path, required=True),
    Option(
        "checkpoint",
        "DIR",
        "A checkpoint of two towers like the config's, of which the image tower is taken. Default: "
        "the config's init, by its init_rules.",
    ),
    Option("data", "SPLIT", "train (default), val, or a name of data.mix."),
    Option("name", "NAME", "Name of the split in the shards. Default: that of --data."),
    Option(
        "dtype",
        "TYPE",
        "Of the stored numbers: float16 (default), within 0.05 %, or float32.",
        one_of("float16", "float32"),
    ),
    Option(
        "batch_size", "N", "Images at a time over all devices. Default: 128 for each device.", count
    ),
    Option(
        "to",
        "FORMAT",
        "arrayrecord (default), parquet or tar.",
        one_of("arrayrecord", "parquet", "tar"),
    ),
    Option("shards", "N", "Number of shards. Default: by --shard_mib.", count),
    Option("shard_mib", "MIB", "Size of a shard, about. Default 256.", count),
    Option("skip_limit", "N", "Most examples that may be left out. Default: data.skip_limit.", int),
)
WORKERS = 2
"""Shards at a time: the devices compute for one while the other's last vectors are written."""


def main(argv: list[str]) -> None:
    line = config.command_line(
        argv,
        program="python tools/precompute_features.py",
        about=__doc__,
        options=OPTIONS,
        checks=(checks.sizes, checks.transforms, checks.paths),
    )
    run, given = line.run, line.extras
    data = given.get("data", "train")
    name = given.get("name", data)
    if "://" in str(given["out"]) or ":/" in str(given["out"]):
        raise config.InputError("--out wants a local folder; copy it to the store afterwards")
    if not re.fullmatch(r"[\w.-]+", name):
        raise config.InputError(f"--name {name!r}: wants letters, digits, dots and dashes")
    if {"shards", "shard_mib"} <= given.keys():
        raise config.InputError("--shard_mib: --shards sets the number already; keep one of them")
    split, where = precompute.split_of(run, data)
    assembly.count_devices(run)  # starts JAX
    images = precompute.computed(
        run,
        split,
        where,
        given.get("checkpoint"),
        given.get("dtype", "float16"),
        given.get("batch_size"),
    )
    options = prepare.Options(
        out=given["out"],
        name=name,
        format=given.get("to", "arrayrecord"),
        images=images,
        skip_limit=given.get("skip_limit", run.data.skip_limit),
        workers=WORKERS,
        **{key: given[key] for key in ("shards", "shard_mib") if key in given},
    )
    display = report.Counting()
    try:
        counts = prepare.prepare(split, options, display.say, display.update, where)
    finally:
        display.close()
    left_out = f", {counts.skipped:,} left out ({options.out}/skipped.txt)" * bool(counts.skipped)
    print(
        f"{options.out}: {counts.total - counts.skipped:,} examples of {name}, each with "
        f"features({images.n}) in {images.dtype}{left_out}"
    )


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
