"""What both sides of contrastive.py share: their options, their inputs, and taking turns.

Runs in the peer's Python too: nothing but the standard library and numpy here.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SCALE = {"softmax": 1 / 0.07, "sigmoid": 10.0}
BIAS = -10.0
INPUT = 64
"""Width of what the towers, one random projection each, are given."""


def read_options():
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--loss", required=True, choices=["softmax", "sigmoid"])
    add("--form", required=True, choices=["full", "chunked", "ring"])
    add("--batch", type=int, required=True)
    add("--width", type=int, required=True)
    add("--chunk", type=int, required=True)
    add("--devices", type=int, default=1)
    add("--threads", type=int, required=True)
    add("--steps", type=int, required=True)
    add("--warmup", type=int, required=True)
    options = parser.parse_args()
    # Before any library counts the cores: as many threads on either side.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    return options


def inputs(options) -> dict[str, np.ndarray]:
    """Pairs that are somewhat alike, and the two towers' projections."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(options.batch, INPUT)).astype(np.float32)
    noise = rng.normal(size=image.shape).astype(np.float32)
    tower = rng.normal(size=(INPUT, options.width)).astype(np.float32)
    other = rng.normal(size=tower.shape).astype(np.float32)
    return {
        "image": image,
        "text": 0.7 * image + 0.7 * noise,
        "image_tower": tower,
        "text_tower": tower + 0.3 * other,
    }


def _resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def serve(options, facts: dict, step: Callable[[], float]) -> None:
    """Warms up, then answers each line on stdin with the seconds of `options.steps` steps.

    `step` returns the loss. Memory is the peak of the resident set over all steps, less what it was
    before the first.
    """
    # Libraries print to stdout; the answers must stay alone on it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    for _ in range(options.warmup):
        loss = step()
    print(json.dumps({**facts, "loss": loss}), file=answers, flush=True)
    for _ in sys.stdin:
        step()  # not counted: the caches hold the other sides' data
        seconds = []
        for _ in range(options.steps):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        answer = {"seconds": seconds, "memory_mib": _resident("VmHWM") - before}
        print(json.dumps(answer), file=answers, flush=True)
