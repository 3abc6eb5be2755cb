"""Time to build and to load the index of tar shards, beside the standard library's tarfile.

    python benchmarks/tar_index.py

Writes shards of 1,000-byte "images" with a label each to a temporary folder, builds their indices
(headers come from memory where the system has just written them: a disk adds its own time), loads
them again as a second run does, and walks over the same shards with tarfile. The best of --repeats
turns, taken one after the other, is printed as JSON.
"""

import argparse
import io
import json
import platform
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from big_vit_lite.config import Split
from big_vit_lite.data import sources
from big_vit_lite.data.sources import tar_index


def write(folder: Path, examples: int, shards: int, image_bytes: int) -> None:
    image = bytes(image_bytes)
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:05d}.tar", "w") as archive:
            for i in range(shard * examples // shards, (shard + 1) * examples // shards):
                for name, data in ((f"{i:09d}.jpg", image), (f"{i:09d}.cls", b"%d" % (i % 1000))):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--image-bytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"build": [], "load": [], "tarfile": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.examples, options.shards, options.image_bytes)
        paths = sorted(folder.glob("*.tar"))

        def build():
            for path in paths:
                tar_index.scan(str(path), frozenset({"cls"}), "data.train")

        def load():
            split = Split(source="tar", path=name, transform="decode")
            assert len(sources.build(split)) == options.examples

        def walk():
            for path in paths:
                with tarfile.open(path) as archive:
                    archive.getmembers()

        load()  # makes and keeps the indices
        kept = sum(path.stat().st_size for path in folder.glob("*.npz"))
        for _ in range(options.repeats):
            for what, call in (("build", build), ("load", load), ("tarfile", walk)):
                times[what].append(seconds(call))
    result = {
        "command": f"python {' '.join(sys.argv)}",
        "examples": options.examples,
        "members": 2 * options.examples,
        "shards": options.shards,
        "build_seconds": round(min(times["build"]), 3),
        "load_seconds": round(min(times["load"]), 3),
        "tarfile_seconds": round(min(times["tarfile"]), 3),
        "index_bytes_per_example": round(kept / options.examples, 1),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
