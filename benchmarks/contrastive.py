"""Step time and memory of contrastive losses on CPU, beside open_clip's on torch.

    python benchmarks/contrastive.py --peer-python A_PYTHON_WITH_TORCH_AND_OPEN_CLIP
    python benchmarks/contrastive.py --plan

A step is the loss of features from two random projections, with gradients to both, to the scale and
to the bias, in float32. Every loss at every batch size has a process of its own; those of one batch
size take turns, so that whatever else the machine does falls on all. Times are medians, ratios
medians over the turns, each with the peer's turn of the same round. Memory is the rise of the
resident set's peak. Both sides must find the same loss, or the run ends.

--plan measures nothing: it compiles the losses for 8 devices at batches of 4,096 to 65,536 and
writes the memory of a device that the compiler plans.

What each side does is written in benchmarks/pairs/. The peer's Python needs torch and
`pip install --no-deps open_clip_torch`.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from train_step import ROOT, processor

HERE = Path(__file__).resolve().parent / "pairs"
BATCHES = (256, 512, 1024, 2048, 4096)
PLANNED = (4096, 8192, 16384, 32768, 65536)
DEVICES = 8

# side: (of open_clip, loss, form, devices, the peer it is held against)
SIDES = {
    "softmax": (False, "softmax", "full", 1, "open_clip softmax"),
    "softmax chunked": (False, "softmax", "chunked", 1, "open_clip softmax"),
    "sigmoid": (False, "sigmoid", "full", 1, "open_clip sigmoid"),
    "sigmoid chunked": (False, "sigmoid", "chunked", 1, "open_clip sigmoid chunked"),
    "sigmoid ring of 2": (False, "sigmoid", "ring", 2, None),
    "sigmoid ring of 8": (False, "sigmoid", "ring", 8, None),
    "softmax ring of 8": (False, "softmax", "ring", 8, None),
    "open_clip softmax": (True, "softmax", "full", 1, None),
    "open_clip sigmoid": (True, "sigmoid", "full", 1, None),
    "open_clip sigmoid chunked": (True, "sigmoid", "chunked", 1, None),
}


class Side:
    """A side's process, from the outside."""

    def __init__(self, name: str, batch: int, options):
        peer, self.loss_name, form, devices, self.beside = SIDES[name]
        self.name, self.turns = name, []
        python = options.peer_python if peer else sys.executable
        command = [python, str(HERE / ("open_clip_loss.py" if peer else "ours.py"))]
        given = {
            "loss": self.loss_name,
            "form": form,
            "batch": batch,
            "width": options.width,
            "chunk": options.chunk,
            "devices": devices,
            "threads": options.threads,
            "steps": max(1, min(options.steps, options.steps * 1024 // batch)),
            "warmup": options.warmup,
        }
        for key, value in given.items():
            command += [f"--{key}", str(value)]
        paths = [] if peer else [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.facts = self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended with code {self.process.wait()}.")
        return json.loads(line)

    def measure(self) -> None:
        """One turn of steps."""
        print(file=self.process.stdin, flush=True)
        answer = self._read()
        self.turns.append(statistics.median(answer["seconds"]))
        self.memory_mib = answer["memory_mib"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(batch: int, options, with_peer: bool) -> list[dict]:
    """All sides at one batch size, in turns."""
    sides = {
        name: Side(name, batch, options)
        for name, (peer, *_) in SIDES.items()
        if name in options.sides and (with_peer or not peer)
    }
    for _ in range(options.repeats):
        for side in sides.values():
            side.measure()
    rows = []
    for side in sides.values():
        side.close()
        same = next(s for s in sides.values() if s.loss_name == side.loss_name)
        if not math.isclose(side.facts["loss"], same.facts["loss"], rel_tol=1e-5):
            sys.exit(
                f"At batch {batch}, {side.name} finds {side.facts['loss']} and {same.name} "
                f"{same.facts['loss']}: they do not compute the same loss."
            )
        row = {
            "batch": batch,
            "side": side.name,
            "step_ms": 1e3 * statistics.median(side.turns),
            "fastest_step_ms": 1e3 * min(side.turns),
            "memory_mib": side.memory_mib,
            **side.facts,
        }
        if side.beside in sides:
            theirs = sides[side.beside].turns
            ratios = [other / own for own, other in zip(side.turns, theirs, strict=True)]
            row |= {"beside": side.beside, "faster_by": statistics.median(ratios)}
        rows.append(row)
    return rows


def show(rows: list[dict]) -> None:
    """Prints the table of measured steps."""
    print(f"{'batch':>6} {'side':26} {'ms/step':>9} {'MiB':>7} {'faster by':>9}  beside")
    for row in rows:
        ratio = f"{row['faster_by']:9.2f}  {row['beside']}" if "beside" in row else ""
        print(
            f"{row['batch']:6} {row['side']:26} {row['step_ms']:9.2f} "
            f"{row['memory_mib']:7.1f} {ratio}"
        )


def plan(options) -> list[dict]:
    """Memory of a device as the compiler plans it; nothing runs."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    from big_vit_lite import config, parallel
    from big_vit_lite.losses import contrastive as losses
    from big_vit_lite.parallel.runtime import compiler_options

    mesh = parallel.make_mesh(config.Mesh())
    rows = []
    for batch in PLANNED:
        features = jax.ShapeDtypeStruct(
            (batch, options.width), jnp.float32, sharding=parallel.batch_sharding(mesh)
        )
        scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=parallel.replicated(mesh))
        for name, loss, scalars in (
            ("softmax", losses.softmax_contrastive, 1),
            ("sigmoid", losses.sigmoid_contrastive, 2),
        ):
            for form in ("full", "chunked", "ring"):

                def compute(*given, loss=loss, form=form):
                    return loss(*given, form=form, chunk=options.chunk)

                gradient = jax.value_and_grad(compute, tuple(range(2 + scalars)))
                with jax.set_mesh(mesh):
                    lowered = jax.jit(gradient).lower(features, features, *[scalar] * scalars)
                    memory = lowered.compile(compiler_options(mesh)).memory_analysis()
                rows.append(
                    {
                        "batch": batch,
                        "loss": name,
                        "form": form,
                        "temporaries_mib": memory.temp_size_in_bytes / 2**20,
                        "arguments_mib": memory.argument_size_in_bytes / 2**20,
                        "outputs_mib": memory.output_size_in_bytes / 2**20,
                    }
                )
    return rows


def show_plan(rows: list[dict]) -> None:
    """Prints temporaries by batch (lines) and walk (columns)."""
    names = list(dict.fromkeys((row["loss"], row["form"]) for row in rows))
    print("temporaries of one of 8 devices, MiB")
    print(f"{'batch':>6} " + " ".join(f"{' '.join(name):>16}" for name in names))
    for batch in dict.fromkeys(row["batch"] for row in rows):
        found = {(r["loss"], r["form"]): r["temporaries_mib"] for r in rows if r["batch"] == batch}
        print(f"{batch:6} " + " ".join(f"{found[name]:16,.0f}" for name in names))


def has_open_clip(python: str) -> bool:
    """Whether that Python has torch and open_clip."""
    check = "import torch, importlib.metadata; importlib.metadata.version('open_clip_torch')"
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batch", default=",".join(map(str, BATCHES)), help="batch sizes, by commas")
    add("--width", type=int, default=512, help="of features")
    add("--chunk", type=int, default=512, help="rows of a chunk, on both sides")
    add("--steps", type=int, default=20, help="steps a turn up to batch 1024, fewer beyond")
    add("--repeats", type=int, default=5, help="turns of each side")
    add("--warmup", type=int, default=20, help="steps before, on both sides")
    add("--sides", default=",".join(SIDES), help="by commas; fewer take turns closer in time")
    add("--threads", type=int, default=os.cpu_count(), help="cores, on both sides")
    add("--peer-python", default=sys.executable, help="a Python with torch and open_clip_torch")
    add("--plan", action="store_true", help="only compile for 8 devices and tell their memory")
    add("--quick", action="store_true", help="only see that it runs: batch 256, one turn of a step")
    add("--out", help="where figures go; default: a file in results/, nowhere for --quick")
    options = parser.parse_args()
    options.sides = options.sides.split(",")
    if unknown := set(options.sides) - set(SIDES):
        parser.error(f"--sides: {', '.join(sorted(unknown))} is none of {', '.join(SIDES)}")
    if options.quick:
        options.batch, options.steps, options.repeats, options.warmup = "256", 1, 1, 1
    return options


def main() -> None:
    options = read_options()
    report = {
        "command": shlex.join(["python", "benchmarks/contrastive.py", *sys.argv[1:]]),
        "width": options.width,
        "chunk": options.chunk,
    }
    if options.plan:
        import jax

        report |= {"devices": DEVICES, "jax": jax.__version__, "rows": plan(options)}
        show_plan(report["rows"])
    else:
        with_peer = has_open_clip(options.peer_python)
        if not with_peer:
            print(
                f"{options.peer_python} has no torch with open_clip_torch: only this package is "
                "measured. Name a Python that has with --peer-python."
            )
        rows = []
        for batch in map(int, options.batch.split(",")):
            rows += compare(batch, options, with_peer)
        show(rows)
        report |= {
            "processor": f"{processor()}, {os.cpu_count()} cores",
            "threads": options.threads,
            "load_average": os.getloadavg(),
            "rows": rows,
        }
    name = "contrastive_memory.json" if options.plan else "contrastive_cpu.json"
    out = Path(options.out) if options.out else None if options.quick else ROOT / "results" / name
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(out)


if __name__ == "__main__":
    main()
