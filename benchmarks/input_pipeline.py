"""Speed and memory of the input pipeline on photographs, beside OpenCV, torch and tf.data.

    python benchmarks/input_pipeline.py --data FOLDER_OF_TARS --peer-python A_PYTHON_WITH_TORCH \\
        --tf-python A_PYTHON_WITH_TENSORFLOW

Every side decodes JPEGs, crops at random to 224x224, flips and makes batches of 256 on as many
threads or workers, in a process of its own. The sides take turns, so that whatever else the machine
does falls on all; rates are medians of the turns and ratios are medians over the turns, each with
the other side's turn of the same round. Processor time is told beside it: it suffers less from
whatever else runs. Then come facts of this package alone. What each side does
is written in benchmarks/pipeline/. Photographs are WebDataset tars with KEY.jpg and KEY.txt.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from train_step import ROOT, processor

HERE = Path(__file__).resolve().parent / "pipeline"
ENTRIES = 50_000  # images that this package is to shuffle: the photographs several times over

OURS = {"ours": "", "ours, on host": "host"}
SHORTCUTS = {
    "ours, approximate": "approximate",
    "ours, cropped": "cropped",
    "ours, cropped, approximate": "cropped,approximate",
}
TORCH = {"torch uint8": "uint8", "torch float": "float"}
TARGETS = {  # (side, beside): at least
    ("ours", "opencv loop"): 0.9,
    ("ours, on host", "opencv loop"): 0.9,
    ("ours", "torch uint8"): 1.3,
    ("ours", "torch float"): 2.0,
    ("ours, cropped", "opencv loop"): None,
    ("ours, cropped", "tf.data"): None,
    ("ours, approximate", "ours"): None,
    ("ours, cropped, approximate", "tf.data"): None,
    ("tf.data", "opencv loop"): None,
}


class Side:
    """A side's process, from the outside."""

    def __init__(self, name: str, python: str, script: str, data: str, variant: str, options):
        self.name, self.seconds, self.cpu = name, [], []
        command = [python, str(HERE / script), "--data", data, "--variant", variant]
        command += ["--batch", str(options.batch), "--batches", str(options.batches)]
        command += ["--threads", str(options.threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment()
        )
        self.versions = self._read()["versions"]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended with code {self.process.wait()}.")
        return json.loads(line)

    def measure(self) -> None:
        """One turn of batches."""
        print(file=self.process.stdin, flush=True)
        answer = self._read()
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu_s"])


def environment() -> dict:
    """Of all sides: what computes beside the threads that are counted is off."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}


def can_import(python: str | None, modules: str) -> bool:
    """Whether that Python has these modules; says so where it has not."""
    code = f"import {modules}"
    if python and not subprocess.run([python, "-c", code], capture_output=True).returncode:
        return True
    print(f"Not measured: {modules}. Name a Python that has it: see --help.")
    return False


def many(data: str, folder: str) -> str:
    """A folder of links to the shards, so many that they hold ENTRIES photographs."""
    path = Path(data).resolve()
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    sys.path.insert(0, str(HERE))
    import turns

    times = -(-ENTRIES // len(turns.jpegs(data)))
    for i in range(times):
        for k, shard in enumerate(shards):
            (Path(folder) / f"train-{i * len(shards) + k:05}.tar").symlink_to(shard)
    return folder


def race(options, linked: str) -> list[dict]:
    """All sides in turns."""
    own = sys.executable
    plans = [("opencv loop", own, "opencv_loop.py", options.data, "")]
    plans += [(name, own, "ours.py", linked, variant) for name, variant in OURS.items()]
    has_cropped = can_import(own, "nvidia.nvimgcodec")
    for name, variant in SHORTCUTS.items():
        if has_cropped or "cropped" not in variant:
            plans.append((name, own, "ours.py", linked, variant))
    if can_import(options.peer_python, "torch, PIL"):
        torch = options.peer_python
        plans += [(n, torch, "torch_loader.py", options.data, v) for n, v in TORCH.items()]
    if can_import(options.tf_python, "tensorflow"):
        plans.append(("tf.data", options.tf_python, "tf_data.py", options.data, ""))
    with ExitStack() as stack:
        sides = [stack.enter_context(Side(*plan, options)) for plan in plans]
        for side in sides:
            side.measure()  # not counted: caches fill, worker processes start
            side.seconds.clear()
            side.cpu.clear()
        for turn in range(options.rounds):
            for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
                side.measure()
    images = options.batch * options.batches
    return [
        {
            "side": side.name,
            "images_per_s": images / statistics.median(side.seconds),
            "cpu_ms_an_image": statistics.median(side.cpu) / images * 1e3,
            "seconds": side.seconds,
            "cpu_s": side.cpu,
            "versions": side.versions,
        }
        for side in sides
    ]


def ratios(rows: list[dict]) -> list[dict]:
    """How many times the rate of the other side each pair of TARGETS reaches."""
    by_name, found = {row["side"]: row for row in rows}, []

    def ratio(side: str, beside: str, what: str) -> float:
        pairs = zip(by_name[beside][what], by_name[side][what], strict=True)
        return statistics.median(b / a for b, a in pairs)

    for (side, beside), target in TARGETS.items():
        if side in by_name and beside in by_name:
            pair = {"side": side, "beside": beside, "target": target}
            pair["ratio"] = ratio(side, beside, "seconds")
            found.append(pair | {"cpu_ratio": ratio(side, beside, "cpu_s")})
    return found


def fact(name: str, data: str, options, *more: str) -> dict:
    """One fact of this package, from a fresh process."""
    command = [sys.executable, str(HERE / "facts.py"), name, "--data", data, *more]
    command += ["--batch", str(options.batch), "--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment())
    if done.returncode:
        sys.exit(f"facts.py {name} ended with code {done.returncode}.")
    return json.loads(done.stdout)


def start(options) -> dict:
    """Fresh processes up to the first batch on the device: seconds, the median of some."""
    runs = []
    for _ in range(3 if options.quick else 7):
        began = time.time()
        found = fact("start", options.data, options)
        runs.append({"first_batch_s": found.pop("at") - began, **found})
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def facts(options, linked: str) -> dict:
    images = "5000" if options.quick else "50000"
    return {
        "start": start(options),
        "overlap": fact("overlap", linked, options, "--batches", "10" if options.quick else "40"),
        "stages": fact("stages", linked, options, "--rounds", "3" if options.quick else "9"),
        "difference": fact("difference", options.data, options),
        "memory": fact("memory", linked, options, "--images", images),
    }


def show(rows: list[dict], pairs: list[dict], found: dict) -> None:
    """Prints the tables."""
    for row in rows:
        cpu = f"{row['cpu_ms_an_image']:6.2f} ms of a processor an image"
        print(f"{row['side']:28} {row['images_per_s']:8.0f} images/s {cpu}")
    for pair in pairs:
        target = f" (at least {pair['target']})" if pair["target"] else ""
        cpu = f"; {pair['cpu_ratio']:.2f} by processor time"
        print(f"{pair['side']:28} {pair['ratio']:8.2f} x {pair['beside']}{target}{cpu}")
    for name, microseconds in found["stages"]["microseconds"].items():
        print(f"{name:28} {microseconds:8.0f} us an image, one thread")
    for what, numbers in found["difference"].items():
        print(
            f"approximate at {what}: {numbers['scaled']} of {numbers['photographs']} scaled, mean "
            f"{numbers['mean']:.2f}, largest {numbers['largest']}, {numbers['faster_by']:.2f} x"
        )
    memory = found["memory"]
    print(
        f"memory over {memory['images']} images: {memory['resident_mib'][-1]:.0f} MiB, "
        f"{memory['growth_mib']:+.1f} MiB after the warm-up"
    )
    print(f"first batch of a new process: {found['start']['first_batch_s']:.2f} s (below 3)")
    print(f"waiting of a step of 1.05 batches: {found['overlap']['wait_share']:.1%} (below 3 %)")


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, help="a WebDataset tar of photographs, or a folder of them")
    add("--batch", type=int, default=256, help="images a batch")
    add("--batches", type=int, default=4, help="batches a turn")
    add("--rounds", type=int, default=9, help="turns of each side")
    add("--threads", type=int, default=2, help="threads, or worker processes, of every side")
    add("--peer-python", help="a Python with torch and pillow")
    add("--tf-python", help="a Python with tensorflow-cpu")
    add("--quick", action="store_true", help="only shows that everything runs")
    add("--out", default=str(ROOT / "results" / "input_pipeline_cpu.json"), help="for figures")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.batches = 2, 2
    return options


def main() -> None:
    options = read_options()
    with tempfile.TemporaryDirectory() as folder:
        linked = many(options.data, folder)
        rows = race(options, linked)
        pairs, found = ratios(rows), facts(options, linked)
    show(rows, pairs, found)
    report = {
        "command": shlex.join(["python", "benchmarks/input_pipeline.py", *sys.argv[1:]]),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "batch": options.batch,
        "threads": options.threads,
        "rows": rows,
        "ratios": pairs,
        **found,
    }
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
