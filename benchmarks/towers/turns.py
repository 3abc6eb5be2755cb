"""What all sides of latency.py share: their options, their inputs, and taking turns.

Runs in the peers' Pythons too: nothing but the standard library and numpy here.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CASES = ("vit_image", "clip_image", "clip_text")
IMAGE, LENGTH = 224, 77
END = 49407
"""CLIP's end token, the largest of its vocabulary."""


def read_options():
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--side", required=True)
    add("--case", required=True, choices=CASES)
    add("--folder", required=True, type=Path, help="holds the models")
    add("--threads", type=int, required=True)
    add("--warmup", type=int, required=True, help="calls before the first that counts")
    add("--warmup-seconds", type=float, required=True, help="no more than so long")
    options = parser.parse_args()
    # Before any library counts the cores: as many threads on every side.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    return options


def inputs(case: str, batch: int) -> np.ndarray:
    """Normalised images (b, h, w, c), or texts of some length, padded behind their end."""
    rng = np.random.default_rng(batch)
    if case != "clip_text":
        return rng.normal(size=(batch, IMAGE, IMAGE, 3)).astype(np.float32)
    tokens = rng.integers(1, END - 1, (batch, LENGTH), np.int32)
    ends = rng.integers(5, LENGTH, batch)
    tokens[np.arange(LENGTH) > ends[:, None]] = 0
    tokens[np.arange(batch), ends] = END
    return tokens


def serve(
    options,
    facts: dict,
    prepared: Callable[[np.ndarray], object],
    call: Callable[[object], np.ndarray],
    more: Callable[[int], dict] = lambda batch: {},
) -> None:
    """Answers each line on stdin, {"batch": b, "calls": n}, with the seconds of n calls.

    `prepared` brings inputs into the side's own form, which is not timed; `call` returns outputs as
    an array here, so that nothing is left to be computed. The first turn of a batch size is
    preceded by warm-up, and its outputs are kept in --folder, to be compared. `more` adds figures.
    """
    # Libraries print to stdout; the answers must stay alone on it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(facts), file=answers, flush=True)
    ready: dict[int, object] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        batch = asked["batch"]
        if batch not in ready:
            ready = {batch: prepared(inputs(options.case, batch))}
            np.save(options.folder / f"{options.case}-{options.side}-{batch}", call(ready[batch]))
            began = time.perf_counter()
            for _ in range(options.warmup - 1):
                call(ready[batch])
                if time.perf_counter() - began > options.warmup_seconds:
                    break
        call(ready[batch])  # not counted: the caches hold the other sides' data
        seconds = []
        for _ in range(asked["calls"]):
            began = time.perf_counter()
            call(ready[batch])
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, **more(batch)}), file=answers, flush=True)
