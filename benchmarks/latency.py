"""Latency of ViT-B/16 and CLIP's towers on CPU, beside transformers on torch and onnxruntime.

    python benchmarks/latency.py --peer-python A_PYTHON --onnx-python A_PYTHON

The same random models at 224 pixels (ViT-B/16 to 1,000 logits, CLIP ViT-B/32's image tower, its
text tower at 77 tokens) in float32 at batch 1, 8 and 64: this package's jitted function (`jit`),
what it exports (`stablehlo`), transformers in inference mode with scaled dot product attention, and
onnxruntime on what this package exports. Each side of a case has a process of its own with the same
threads; sides take turns, so that whatever else the machine does falls on all. A turn's time is the
median of its calls, a side's the median of its turns; ratios are medians over rounds, each of turns
in the same round. All sides must give the same outputs, or the run ends. The floor is the
multiply-adds over the rate of a float32 matrix product measured in the same round.

What each side does is written in benchmarks/towers/. --peer-python needs torch and transformers;
--onnx-python needs this package's requirements, jax2onnx and onnxruntime.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from towers.turns import CASES
from train_step import ROOT, processor

HERE = Path(__file__).resolve().parent / "towers"
SIDES = {
    "jit": ("ours.py", "python"),
    "stablehlo": ("ours.py", "python"),
    "transformers": ("transformers_torch.py", "peer_python"),
    "onnxruntime": ("onnx_file.py", "onnx_python"),
}
"""Side: its program, and the Python that runs it."""
NEEDS = {"peer_python": "torch, transformers", "onnx_python": "jax2onnx, onnxruntime"}
SAME = 1e-4
"""Largest difference of a side's outputs from ours, relative to the largest."""


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}


class Side:
    """A side's process, from the outside."""

    def __init__(self, name: str, case: str, folder: Path, options):
        program, python = SIDES[name]
        self.name, self.case, self.folder = name, case, folder
        self.turns: list[list[float]] = []
        self.figures: list[dict] = []
        command = [getattr(options, python), str(HERE / program), "--side", name, "--case", case]
        command += ["--folder", str(folder), "--threads", str(options.threads)]
        command += ["--warmup", str(options.warmup)]
        command += ["--warmup-seconds", str(options.warmup_seconds)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment()
        )
        self.facts = self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ({self.case}) ended with code {self.process.wait()}.")
        return json.loads(line)

    def measure(self, batch: int, calls: int) -> None:
        """One turn."""
        print(json.dumps({"batch": batch, "calls": calls}), file=self.process.stdin, flush=True)
        answer = self._read()
        self.turns.append(answer.pop("seconds"))
        self.figures.append(answer)

    def outputs(self, batch: int) -> np.ndarray:
        return np.load(self.folder / f"{self.case}-{self.name}-{batch}.npy")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def prepare(folder: Path, names: list[str], options) -> None:
    """Models and exported functions, made by one process after the other."""
    for name, format, python in (
        ("stablehlo", "stablehlo", options.python),
        ("onnxruntime", "onnx", options.onnx_python),
    ):
        if name in names or name == "stablehlo":
            command = [python, str(HERE / "ours.py"), "--side", "prepare"]
            command += ["--folder", str(folder), "--format", format, "--models"]
            command += sorted({case.split("_")[0] for case in options.case.split(",")})
            subprocess.run(command, check=True, env=environment())


def compare(case: str, names: list[str], folder: Path, options) -> list[dict]:
    """All sides of a case at all batch sizes, in turns."""
    sides = [Side(name, case, folder, options) for name in names]
    rows = []
    for batch in map(int, options.batch.split(",")):
        calls = max(1, options.calls // batch)
        for side in sides:
            side.turns, side.figures = [], []
        for _ in range(options.repeats):
            for side in sides:
                side.measure(batch, calls)
        rows += [row(side, sides[0], batch) for side in sides]
    for side in sides:
        side.close()
    return rows


def row(side: Side, ours: Side, batch: int) -> dict:
    """What is reported of a side at a batch size.

    Exits where its outputs are not ours.
    """
    own, found = ours.outputs(batch), side.outputs(batch)
    difference = float(np.abs(found - own).max() / np.abs(own).max())
    if not difference <= SAME:
        sys.exit(f"{side.case}, batch {batch}: {side.name} differs from ours by {difference:.1e}.")
    times = [statistics.median(turn) for turn in side.turns]
    other = [statistics.median(turn) for turn in ours.turns]
    median = statistics.median(times)
    made = {
        "case": side.case,
        "batch": batch,
        "side": side.name,
        "ms": 1e3 * median,
        "fastest_ms": 1e3 * min(map(min, side.turns)),
        "turns": len(times),
        "calls": len(side.turns[0]),
        "times_ours": statistics.median(x / y for x, y in zip(times, other, strict=True)),
        "difference": difference,
        "versions": side.facts["versions"],
    }
    if "flops" in side.figures[0]:
        flops = side.figures[0]["flops"]
        floors = [flops / figure["matmul"] for figure in side.figures]
        made |= {
            "gflop": flops / 1e9,
            "matmul_gflops": flops / statistics.median(floors) / 1e9,
            "of_floor": statistics.median(x / y for x, y in zip(floors, times, strict=True)),
        }
    return made


def show(rows: list[dict]) -> None:
    """Prints the table."""
    print(
        f"{'case':11} {'batch':>5} {'side':13} {'ms':>9} {'fastest':>9} {'times ours':>10} "
        f"{'of matmul':>9} {'differs':>8}"
    )
    for each in rows:
        floor = f"{each['of_floor']:9.2f}" if "of_floor" in each else " " * 9
        print(
            f"{each['case']:11} {each['batch']:5} {each['side']:13} {each['ms']:9.2f} "
            f"{each['fastest_ms']:9.2f} {each['times_ours']:10.2f} {floor} "
            f"{each['difference']:8.0e}"
        )


def has(python: str, modules: str) -> bool:
    """Whether that Python can import some modules."""
    return subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode == 0


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--case", default=",".join(CASES), help="what runs, by commas")
    add("--batch", default="1,8,64", help="batch sizes, by commas")
    add("--calls", type=int, default=16, help="calls a turn at batch 1; fewer, by batch, beyond")
    add("--repeats", type=int, default=7, help="turns of each side")
    add("--warmup", type=int, default=20, help="calls before, on every side")
    add("--warmup-seconds", type=float, default=20.0, help="warm-up is no longer than this")
    add("--threads", type=int, default=os.cpu_count(), help="cores, on every side")
    add("--peer-python", default=sys.executable, help="a Python with torch and transformers")
    add("--onnx-python", default=sys.executable, help="a Python with jax2onnx and onnxruntime")
    add(
        "--quick", action="store_true", help="only see that it runs: batch 1, 2, one turn of a call"
    )
    add("--out", type=Path, help="where lines go; default: results/latency/, nowhere for --quick")
    options = parser.parse_args()
    options.python = sys.executable
    if options.quick:
        options.batch, options.calls, options.repeats, options.warmup = "1,2", 1, 1, 1
    return options


def main() -> None:
    options = read_options()
    names = []
    for name, (_, python) in SIDES.items():
        if python in NEEDS and not has(getattr(options, python), NEEDS[python]):
            print(
                f"{name} is left out: {getattr(options, python)} cannot import {NEEDS[python]}. "
                f"Name a Python that can with --{python.replace('_', '-')}."
            )
        else:
            names.append(name)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), names, options)
        for case in options.case.split(","):
            rows += compare(case, names, Path(folder), options)
    show(rows)
    out = options.out or (None if options.quick else ROOT / "results" / "latency" / "cpu.jsonl")
    if out:
        shared = {
            "command": shlex.join(["python", "benchmarks/latency.py", *sys.argv[1:]]),
            "processor": f"{processor()}, {os.cpu_count()} cores",
            "threads": options.threads,
            "load_average": os.getloadavg(),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(each | shared) + "\n" for each in rows))
        print(out)


if __name__ == "__main__":
    main()
