"""What input_pipeline.py tells of this package alone: one kind of fact by one run, as JSON.

stages: microseconds an image in each stage, on one thread. difference: of approximate from exact
pixels. memory: the resident set while batches are made. overlap: the share of time that a step of
1.05 times a batch's time waits. start: the moment of the first batch.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise

import numpy as np
import ours
import turns


def stages(options) -> dict:
    """Each stage over the same photographs, in turn; the median of the rounds."""
    stream = ours.stream_of(options.data, {"cropped"}, options.batch, 1)
    from big_vit_lite.data import transforms
    from big_vit_lite.data.examples import Draws
    from big_vit_lite.data.transforms import cropped

    member = stream._blocks.pool.members[0]
    source, draws = member.source, Draws(0)
    decode, crop, flip = member._transform.ops
    rows = range(min(len(source), options.batch))
    batch = np.zeros((options.batch, 224, 224, 3), np.uint8)
    whole = transforms.Transform(member._transform.ops)
    seconds: dict[str, list[float]] = {}

    def timed(name, function, *lists):
        began = time.process_time()
        made = [function(*arguments) for arguments in zip(*lists, strict=True)]
        seconds.setdefault(name, []).append(time.process_time() - began)
        return made

    def put(row, image):
        batch[row] = image

    for turn in range(options.rounds):
        stored = timed("read", lambda i: source[i]["image"], rows)
        rngs = timed("generator", lambda i, turn=turn: draws.at(i, turn), rows)
        decoded = timed("decode", decode, stored, rngs)
        cut = timed("crop, resize", crop, decoded, rngs)
        flipped = timed("flip", flip, cut, rngs)
        timed("copy", put, rows, flipped)
        without = lambda data, rng: flip(crop(decode(data, rng), rng), rng)  # noqa: E731
        timed("decode to flip", without, stored, rngs)
        if cropped.join(whole.ops):
            timed("decode to flip, cropped", whole, stored, rngs)
        began = time.process_time()
        stream.host_batch(turn)
        seconds.setdefault("all, cropped", []).append(time.process_time() - began)
    found = {name: statistics.median(times) / len(rows) * 1e6 for name, times in seconds.items()}
    return {"microseconds": found}


def difference(options) -> dict:
    """Of grey levels, over those photographs of which the approximate path reads a fraction."""
    ours.stream_of(options.data, {"cropped"}, options.batch, 1)
    from big_vit_lite.data import transforms
    from big_vit_lite.data.transforms import cropped

    counted = []
    reduced = cropped._reduced
    cropped._reduced = lambda data, scale: counted.append(scale) or reduced(data, scale)
    found = {}
    for size in (64, 128, 224):
        for antialias in (False, True):
            crop = f"random_resized_crop({size}, antialias={antialias})"
            exact = transforms.parse(f"decode|{crop}")
            close = transforms.parse(f"decode(approximate=True)|{crop}")
            means, most, took = [], 0, [0.0, 0.0]
            photographs = turns.jpegs(options.data)
            for seed, data in enumerate(photographs):
                counted.clear()
                images = []
                for k, transform in enumerate((exact, close)):
                    began = time.perf_counter()
                    images.append(transform(data, np.random.default_rng(seed)).astype(int))
                    took[k] += time.perf_counter() - began
                if counted:
                    apart = np.abs(images[0] - images[1])
                    means.append(float(apart.mean()))
                    most = max(most, int(apart.max()))
            found[f"{size}, antialias={antialias}"] = {
                "photographs": len(photographs),
                "scaled": len(means),
                "mean": statistics.fmean(means) if means else 0.0,
                "largest": most,
                "faster_by": took[0] / took[1],
            }
    return found


def memory(options) -> dict:
    """Every tenth of the images the resident set; the first tenth is the warm-up."""
    stream = ours.stream_of(options.data, set(), options.batch, options.threads)
    batches = max(options.images // options.batch, 20)
    sizes = []
    for i, _ in enumerate(stream.iterate(0, batches)):
        if i % (batches // 20) == 0:
            sizes.append(turns.resident())
    warm = sizes[2:]
    half = len(warm) // 2
    return {
        "images": batches * options.batch,
        "resident_mib": sizes,
        "growth_mib": statistics.median(warm[half:]) - statistics.median(warm[:half]),
    }


def overlap(options) -> dict:
    """Waits between steps that sleep; the first batches after the start are not counted."""
    stream = ours.stream_of(options.data, set(), options.batch, options.threads)
    count = options.batches
    with stream.iterate(0, count + turns.WARMUP + 1) as batches:
        ends = []
        for _ in range(count + turns.WARMUP + 1):
            next(batches)
            ends.append(time.perf_counter())
    seconds = statistics.median(b - a for a, b in pairwise(ends[turns.WARMUP :]))
    step, waits = 1.05 * seconds, []
    with stream.iterate(count, 2 * count + turns.WARMUP) as batches:
        for _ in range(count + turns.WARMUP):
            next(batches)
            waits.append(batches.wait_s)
            time.sleep(step)
    waited = sum(waits[turns.WARMUP :])
    return {"batch_s": seconds, "step_s": step, "wait_share": waited / (waited + step * count)}


def start(options) -> dict:
    """Seconds of opening and of the first batch; the caller has those of the whole process."""
    began = time.perf_counter()
    stream = ours.stream_of(options.data, set(), options.batch, options.threads)
    opened = time.perf_counter()
    with stream.iterate() as batches:
        next(batches)["image"].block_until_ready()
    first = time.perf_counter()
    return {"at": time.time(), "import_and_open_s": opened - began, "batch_s": first - opened}


FACTS = {f.__name__: f for f in (stages, difference, memory, overlap, start)}


def main() -> None:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("fact", choices=FACTS)
    add("--data", required=True)
    add("--batch", type=int, default=256)
    add("--batches", type=int, default=20)
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=5)
    add("--images", type=int, default=50_000)
    options = parser.parse_args()
    answers = turns.alone_on_stdout()
    print(json.dumps(FACTS[options.fact](options)), file=answers, flush=True)


if __name__ == "__main__":
    main()
