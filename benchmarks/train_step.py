"""Speed and memory of a whole training step on CPU, beside transformers with torch.

    python benchmarks/train_step.py --peer-python PATH_TO_A_PYTHON_WITH_TORCH_AND_TRANSFORMERS

Each side trains the same ViT (forward, backward, AdamW) on one batch of synthetic images in a
process of its own: this package with the step that `big_vit_lite.train` compiles, the peer with
ViTForImageClassification, scaled dot product attention and fused AdamW, in float32 and under
bfloat16 autocast. The sides take turns, so that whatever else the machine does falls on all.
Memory is the peak of the resident set less what it was after the imports.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE, CLASSES = 224, 1000
SIZES = {"Ti/16": (192, 3, 768), "S/16": (384, 6, 1536), "B/16": (768, 12, 3072)}
"""Width, heads and MLP features of the peer's model; depth is 12."""


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def ours(options):
    """The package's own step: returns (step, facts, FLOPs of a step)."""
    import jax

    from big_vit_lite import assembly, config, optim, parallel

    imported = resident("VmRSS")
    images = {"source": "synthetic", "examples": options.batch, "classes": CLASSES}
    run = config.Run.model_validate(
        {
            "steps": 1000,
            "model": {"variant": options.model, "dtype": options.dtype},
            "task": {"name": "classification"},
            "data": {
                "batch_size": options.batch,
                "train": {**images, "image_size": (IMAGE, IMAGE), "transform": ""},
            },
            "optim": {"name": "adamw", "lr": 1e-4, "weight_decay": 0.05},
        }
    )
    parts = assembly.assemble(run)
    optimizer = optim.build(run, assembly.abstract_params(parts), parts.steps, options.batch)
    training = parallel.compile_training(parts.task, optimizer, parts.mesh, parts.batches.spec, 0)
    batch, state = parts.batches[0], training.init()

    def step():
        nonlocal state
        state, metrics = training.step(state, batch)
        jax.block_until_ready((state, metrics))

    return step, imported, {"jax": jax.__version__}, assembly.train_flops(parts) * options.batch


def peer(options):
    """Transformers' ViT on torch, its activation set to the one of our default."""
    import torch
    import transformers

    imported = resident("VmRSS")
    torch.set_num_threads(options.threads)
    width, heads, mlp = SIZES[options.model]
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=width,
            num_hidden_layers=12,
            num_attention_heads=heads,
            intermediate_size=mlp,
            hidden_act="gelu_pytorch_tanh",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            image_size=IMAGE,
            num_labels=CLASSES,
            attn_implementation="sdpa",
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    images = torch.randn(options.batch, 3, IMAGE, IMAGE)
    labels = torch.randint(0, CLASSES, (options.batch,))
    half = options.dtype == "bfloat16"

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return step, imported, versions, None


def matmul_rate() -> float:
    """FLOP/s of a float32 matmul in our process, measured anew."""
    from big_vit_lite.report import hardware

    return hardware.measured_matmul_rate.__wrapped__(size=2048, runs=7)


def work(options) -> None:
    """A side's process: warms up, then answers each line on stdin with one JSON line of numbers."""
    # Libraries print to stdout; the answers must stay alone on it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    step, imported, versions, flops = (ours if options.side == "ours" else peer)(options)
    for _ in range(options.warmup):
        step()
    hello = {"versions": versions, "flops": flops, "memory_mib": resident("VmHWM") - imported}
    print(json.dumps(hello), file=answers, flush=True)
    for _ in sys.stdin:
        step()  # not counted: the caches hold the other sides' data
        seconds = []
        for _ in range(options.steps):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        answer = {"seconds": seconds, "memory_mib": resident("VmHWM") - imported}
        if options.side == "ours":
            answer["matmul"] = matmul_rate()
        print(json.dumps(answer), file=answers, flush=True)


class Side:
    """A side's process, from the outside."""

    def __init__(self, name: str, model: str, dtype: str, options):
        own = name == "ours"
        self.name, self.dtype = name, dtype
        command = [sys.executable if own else options.peer_python, __file__, "--side", name]
        command += ["--model", model, "--dtype", dtype, "--batch", str(options.batch)]
        command += ["--steps", str(options.steps), "--threads", str(options.threads)]
        command += ["--warmup", str(options.warmup if own else options.peer_warmup)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])] if own else []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        hello = self._read()
        self.versions, self.flops = hello["versions"], hello["flops"]
        self.seconds, self.matmuls = [], []

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ({self.dtype}) ended with code {self.process.wait()}.")
        return json.loads(line)

    def measure(self) -> None:
        """One turn of steps."""
        print(file=self.process.stdin, flush=True)
        answer = self._read()
        self.seconds += answer["seconds"]
        self.memory_mib = answer["memory_mib"]
        self.matmuls += [answer["matmul"]] if "matmul" in answer else []

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def numbers(self, batch: int) -> dict:
        """What is reported of this side."""
        step = statistics.median(self.seconds)
        found = {
            "side": self.name,
            "dtype": self.dtype,
            "step_s": step,
            "fastest_step_s": min(self.seconds),
            "images_per_s": batch / step,
            "memory_mib": self.memory_mib,
            "versions": self.versions,
        }
        if self.flops:
            rate = statistics.median(self.matmuls)
            found |= {
                "gflops": self.flops / step / 1e9,
                "matmul_gflops": rate / 1e9,
                "of_matmul": self.flops / step / rate,
            }
        return found


def has_torch(python: str) -> bool:
    """Whether that Python can import torch and transformers."""
    done = subprocess.run([python, "-c", "import torch, transformers"], capture_output=True)
    return done.returncode == 0


def compare(model: str, options, with_peer: bool) -> list[dict]:
    """All sides of one model, in turns."""
    names = [("ours", dtype) for dtype in options.dtype.split(",")]
    if with_peer:
        names += [("transformers", "float32"), ("transformers", "bfloat16")]
    sides = [Side(name, model, dtype, options) for name, dtype in names]
    for _ in range(options.repeats):
        for side in sides:
            side.measure()
    for side in sides:
        side.close()
    rows = [{"model": model, **side.numbers(options.batch)} for side in sides]
    for row in rows:
        row["speed_of_ours"] = row["step_s"] / rows[0]["step_s"]
    return rows


def show(rows: list[dict]) -> None:
    """Prints the table."""
    print(
        f"{'model':6} {'side':13} {'dtype':9} {'s/step':>7} {'images/s':>9} {'GFLOP/s':>8} "
        f"{'of matmul':>9} {'MiB':>6} {'ours is faster by':>17}"
    )
    for row in rows:
        gflops = f"{row['gflops']:8.0f} {row['of_matmul']:9.2f}" if "gflops" in row else " " * 18
        print(
            f"{row['model']:6} {row['side']:13} {row['dtype']:9} {row['step_s']:7.3f} "
            f"{row['images_per_s']:9.2f} {gflops} {row['memory_mib']:6.0f} "
            f"{row['speed_of_ours']:17.2f}"
        )


def processor() -> str:
    """The processor's name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="B/16,S/16", help=f"sizes, by commas, of {', '.join(SIZES)}")
    add("--dtype", default="float32", help="ours: float32, bfloat16, or both by a comma")
    add("--batch", type=int, default=8, help="images a step")
    add("--steps", type=int, default=3, help="steps a turn")
    add("--repeats", type=int, default=5, help="turns of each side")
    add("--warmup", type=int, default=2, help="steps before, ours")
    add("--peer-warmup", type=int, default=20, help="steps before, the peer: it speeds up slowly")
    add("--threads", type=int, default=os.cpu_count(), help="threads of the peer")
    add("--peer-python", default=sys.executable, help="a Python with torch and transformers")
    add("--out", default=str(ROOT / "results" / "train_step_cpu.json"), help="where figures go")
    add("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = read_options()
    if options.side:
        work(options)
        return
    with_peer = has_torch(options.peer_python)
    if not with_peer:
        print(
            f"{options.peer_python} cannot import torch and transformers: only this package is "
            "measured. Name a Python that can with --peer-python."
        )
    rows = []
    for model in options.model.split(","):
        rows += compare(model, options, with_peer)
    show(rows)
    report = {
        "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "batch": options.batch,
        "image_size": IMAGE,
        "rows": rows,
    }
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
