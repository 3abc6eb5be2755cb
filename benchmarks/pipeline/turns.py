"""What every side of input_pipeline.py shares: its options, the photographs, and taking turns.

Runs in any of the peers' Pythons: nothing but the standard library here.
"""

import argparse
import json
import os
import random
import resource
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SCALE, RATIO = (0.05, 1.0), (0.75, 1.33)  # of random crops, the same on every side
WARMUP = 2  # batches of a turn that are not timed


def read_options():
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--data", required=True)
    add("--batch", type=int, default=256)
    add("--batches", type=int, default=4)
    add("--threads", type=int, default=2)
    add("--size", type=int, default=224)
    add("--variant", default="")
    return parser.parse_args()


def jpegs(data: str) -> list[bytes]:
    """Contents of the photographs in a tar, or in all tars of a folder."""
    path, found = Path(data), []
    for shard in sorted(path.glob("*.tar")) if path.is_dir() else [path]:
        with tarfile.open(shard) as archive:
            members = (m for m in archive if m.name.endswith((".jpg", ".jpeg")))
            found += [archive.extractfile(m).read() for m in members]
    return found


def order(n: int, seed: int) -> Iterator[int]:
    """Endless: every photograph once, shuffled, then anew; sizes differ too much for free draws."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(n), n)


def alone_on_stdout():
    """A file for answers; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def resident() -> float:
    """VmRSS of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def serve(options, versions: dict, make: Callable[[int, int], Iterator], ahead: int = 0) -> None:
    """Answers each line on stdin with the seconds that `options.batches` batches took.

    `make(turn, n)` gives n batches, made as the side makes them in training. The first are not
    counted; `ahead` more are asked for than are timed, so that workers stay busy to the end.
    """
    answers = alone_on_stdout()
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for turn, _ in enumerate(sys.stdin):
        batches = make(turn, WARMUP + options.batches + ahead)
        for _ in range(WARMUP):
            next(batches)
        began, cpu = time.perf_counter(), _cpu()
        for _ in range(options.batches):
            next(batches)
        answer = {"seconds": time.perf_counter() - began, "cpu_s": _cpu() - cpu}
        for _ in batches:
            pass
        print(json.dumps(answer), file=answers, flush=True)


def _cpu() -> float:
    """Processor seconds of this process and of its workers that live."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system time
    return used.ru_utime + used.ru_stime + ticks / os.sysconf("SC_CLK_TCK")
