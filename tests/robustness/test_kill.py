"""`kill -9` at random moments of a run: no checkpoint is lost or unreadable, no row missing.

The moments are drawn, not placed; tests/checkpoint/test_kill.py places one at each line that
counts. Here a parent watches the directory, waits for a phase, then for a random while, and kills.
What the directory then looks like says where it hit.
"""

import json
import os
import random
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import several

from big_vit_lite import checkpoint
from big_vit_lite.checkpoint import arrays, manifest

QUICKSTART = str(several.ROOT / "configs" / "quickstart.py:tiny")
SCRIPT = Path(__file__).parent / "killed.py"
ARRAYS, COMMIT, CLEAN_UP, BETWEEN = "arrays", "commit", "clean-up", "between"
# 200 MB of state in one block, whose program is compiled as quickly as a small one's.
LARGE = ("--config.model.width=1024", "--config.model.depth=1", "--config.model.heads=8",
         "--config.model.mlp_dim=6400", "--config.data.batch_size=8")  # fmt: skip


def options(workdir, steps, *more):
    return ["--config", QUICKSTART, "--workdir", workdir, f"--config.steps={steps}",
            "--config.evals.val.every=100000", "--config.report.every=1",
            "--config.checkpoint.every=1", "--config.report.tensorboard=false",
            "--config.report.curve=false",
            "--config.optim.schedule=constant", "--config.optim.warmup=0", *more]  # fmt: skip


def phase(directory: Path) -> str:
    """What the directory of checkpoints is in the middle of."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return BETWEEN
    steps = sorted(int(name) for name in names if name.isdecimal())
    finished = [step for step in steps if manifest.is_committed(directory / str(step))]
    if any(arrays.TEMPORARY in name for name in names):
        return ARRAYS
    if steps and steps[-1] not in finished:
        return COMMIT
    return BETWEEN if steps == finished else CLEAN_UP


def committed(directory: Path) -> list[int]:
    """Steps whose checkpoints count, ascending, by the mark alone."""
    numbers = (int(p.name) for p in directory.glob("[0-9]*") if p.name.isdecimal())
    return sorted(n for n in numbers if manifest.is_committed(directory / str(n)))


def steps_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().split("\n")
    return [json.loads(line)["step"] for line in lines[:-1]]  # the last may be torn


def check(workdir) -> int:
    """The step of the latest checkpoint; every one that counts is read whole."""
    directory = workdir / "checkpoints"
    finished = committed(directory)
    for step in finished:
        manifest.verify(directory / str(step))
        read = arrays.load(directory / str(step), held_by(directory / str(step))[0])
        assert int(read["step"]) == step
        assert all(np.isfinite(x).all() for name, x in read.items() if name.startswith("params/"))
    rows = steps_of(workdir)
    assert rows == list(range(1, len(rows) + 1))
    assert finished and finished[-1] <= len(rows)
    return finished[-1]


def kill_often(workdir, wanted, log, seed, *more) -> list[str]:
    """Starts the run once for each of `wanted` and kills it there.

    Returns:
        Where each kill hit, which the end of a phase can turn into the next one.
    """
    rng, directory, hit, latest = random.Random(seed), workdir / "checkpoints", [], 0
    for number, aim in enumerate(wanted, 1):
        (process,) = several.start(SCRIPT, 1, 1, workdir / "said", *options(workdir, 10**6, *more))
        began, first = time.monotonic(), latest
        seen = latest
        try:
            while seen <= first or (aim != BETWEEN and phase(directory) != aim):
                assert process.poll() is None, several.output(workdir / "said", 0)
                assert time.monotonic() - began < 900, f"no {aim} for 15 minutes"
                seen = max([seen, *committed(directory)])
                time.sleep(0.0005)  # the core is the other process's, too
            # What the parent has seen stand must stand: it is read before the kill.
            time.sleep(rng.uniform(0, {BETWEEN: 2.0, ARRAYS: 0.1}.get(aim, 0.02)))
        finally:
            process.kill()
            process.wait()
        hit.append(phase(directory))
        latest = check(workdir)
        assert latest >= seen, f"step {seen} stood, and now the latest is {latest}"
        seconds = time.monotonic() - began
        log.write(
            f"kill {number:2d}  aimed at {aim:8s}  hit {hit[-1]:8s}  {seconds:5.1f} s after the "
            f"start  went on from step {first}  latest checkpoint {latest}  rows up to "
            f"{len(steps_of(workdir))}\n"
        )
        log.flush()
    return hit


def held_by(directory) -> tuple[dict[str, jax.ShapeDtypeStruct], int]:
    """What a checkpoint holds, and its bytes."""
    listing = checkpoint.read_meta(directory)["arrays"]
    held = {k: jax.ShapeDtypeStruct(tuple(shape), np.dtype(d)) for k, (d, shape) in listing.items()}
    return held, sum(x.dtype.itemsize * x.size for x in held.values())


def test_killed_four_times(tmp_path):
    with open(tmp_path / "kills.txt", "w") as log:
        aims = (CLEAN_UP, ARRAYS, COMMIT, BETWEEN)
        hit = kill_often(tmp_path / "run", aims, log, 0, *LARGE)
    assert len(set(hit) - {BETWEEN}) >= 2, hit
    assert held_by(checkpoint.find(tmp_path / "run"))[1] >= 200e6


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    """The log goes to the file that $KILL_LOG names, where it is set."""
    path = Path(os.environ.get("KILL_LOG", tmp_path / "kills.txt"))
    aims = [ARRAYS] * 9 + [COMMIT] * 4 + [CLEAN_UP] * 3 + [BETWEEN] * 4
    random.Random(1).shuffle(aims)
    with open(path, "w") as log:
        workdir = tmp_path / "run"
        hit = kill_often(workdir, aims, log, 1, *LARGE)
        held, size = held_by(checkpoint.find(workdir))
        log.write(f"state of {size:,} bytes; {len(hit)} kills: ")
        log.write(", ".join(f"{hit.count(p)} {p}" for p in (ARRAYS, COMMIT, CLEAN_UP, BETWEEN)))
        assert size >= 200e6
        assert hit.count(ARRAYS) >= 8 and hit.count(COMMIT) + hit.count(CLEAN_UP) >= 4, hit

        # And after all that the run ends where one that nobody killed does.
        last = check(workdir) + 1
        for folder in (workdir, tmp_path / "whole"):
            more = LARGE if folder == workdir else (*LARGE, "--config.checkpoint.every=100")
            (process,) = several.start(
                "big_vit_lite.train", 1, 1, tmp_path / "said", *options(folder, last, *more)
            )
            assert several.wait([process], 600) == [0], several.output(tmp_path / "said", 0)
        ours, theirs = (
            arrays.load(checkpoint.find(folder), held) for folder in (workdir, tmp_path / "whole")
        )
        for name in held:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        log.write(f"\nstep {last} is bitwise that of a run which nobody killed\n")
