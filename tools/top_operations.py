"""Prints what took the time in a trace: by layer, by kind of operation, and the top operations.

    python -m big_vit_lite.train --config configs/vit_b16.py --workdir runs/b16 --profile 10:13
    python tools/top_operations.py --trace runs/b16/profile

Times are of operations on the devices, without those that run within them (the body of a loop,
say). The newest trace in the folder is read; it opens in Perfetto (*.trace.json.gz) and XProf, too.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from big_vit_lite import config
from big_vit_lite.plan.hlo import Computation, Instruction, Program
from big_vit_lite.report.profile import PROGRAM

OPTIONS = (
    config.Option("trace", "DIR", "A folder that --profile wrote.", Path, required=True),
    config.Option("top", "N", "How many lines of each table. Default 20.", int),
    config.Option("depth", "N", "How many names of a layer's path are told apart. Default 3.", int),
)
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-", "send",
               "recv", "ragged-all-to-all")  # fmt: skip
MOVES = {"copy", "copy-start", "copy-done", "transpose", "bitcast", "slice", "dynamic-slice",
         "dynamic-update-slice", "concatenate", "pad", "reshape", "gather", "parameter",
         "broadcast", "constant", "tuple", "get-tuple-element"}  # fmt: skip
_MODEL = re.compile(r"\bjvp\([A-Z]\w*\)")  # its class, not a part of it
_WRAPPER = re.compile(r"\b(?:jit|jvp|transpose|vmap|remat|checkpoint|pmap|shard_map)\(")
_NO_LAYER = {"while", "body", "cond", "closed_call", "eval_jaxpr", "checkpoint",
             "rematted_computation", "branch_0_fun", "branch_1_fun", "custom_vjp_call",
             "custom_jvp_call", "shard_map", "pjit", ""}  # fmt: skip


class Operation(NamedTuple):
    """One run of an operation on a device.

    Attributes:
        name: the instruction of the compiled program.
        seconds: without operations within it.
        device: which one.
        module: the program that it is part of, if the trace says so.
        scope: where it comes from, if the trace itself says so: "jit(step)/jvp(ViT)/...".
    """

    name: str
    seconds: float
    device: str
    module: str = ""
    scope: str = ""


def main(argv: list[str]) -> None:
    told, faults = config.options_line(
        argv, program="python tools/top_operations.py", about=__doc__, options=OPTIONS
    )
    top, depth = told.get("top", 20), told.get("depth", 3)
    if top < 1 or depth < 1:
        faults.append(config.Fault("--top, --depth", "want a whole number from 1 on"))
    if faults:
        raise config.InputError("\n".join(map(str, faults)), faults)
    file = newest(told["trace"])
    operations, steps = read(file)
    if not operations:
        raise config.InputError(
            f"{file} holds no operation of a device; trace steps after the first, as --profile 2:5"
        )
    print(describe(operations, steps, origins(file), top, depth))


def newest(folder: Path) -> Path:
    """The latest trace below a folder.

    Raises:
        InputError: there is none.
    """
    found = [folder] if folder.is_file() else list(folder.rglob("*.xplane.pb"))
    if not found:
        raise config.InputError(
            f"{folder} holds no trace (*.xplane.pb): train with --profile FIRST:END, which writes "
            "one into WORKDIR/profile"
        )
    return max(found, key=lambda file: (file.stat().st_mtime_ns, file.name))


def read(file: Path) -> tuple[list[Operation], int]:
    """The operations of a trace, and how many steps of training it holds.

    Raises:
        InputError: it is no trace.
    """
    from jax.profiler import ProfileData

    try:
        planes = list(ProfileData.from_file(str(file)).planes)
    except Exception as error:
        raise config.InputError(f"{file} cannot be read as a trace: {error}") from None
    operations: list[Operation] = []
    steps = set()
    for plane in planes:
        lines = list(plane.lines)
        # A TPU's operations have a line of their own, beside lines that sum them up.
        lines = [line for line in lines if line.name == "XLA Ops"] or lines
        for line in lines:
            events = []
            for event in line.events:
                if event.name == "train" and not plane.name.startswith("/device:"):
                    steps.add(dict(event.stats).get("step_num"))
                elif found := _operation(plane.name, line.name, event):
                    events.append((event.start_ns, event.duration_ns, *found))
            operations += _alone(events)
    return operations, len(steps - {None})


def _operation(plane: str, line: str, event: Any) -> tuple[str, str, str, str] | None:
    """(name, device, module, scope) of an event that is an operation of a device's program."""
    stats = dict(event.stats)
    # There an event is named by the text of its instruction; CPUs and GPUs have a note on each.
    name = stats.get("hlo_op") or (event.name if line == "XLA Ops" else None)
    if name is None:
        return None
    device = plane if plane.startswith("/device:") else f"{plane} {stats.get('device_ordinal', 0)}"
    scope = str(stats.get("tf_op", "")).rstrip(":")
    name = str(name).split(" = ")[0].removeprefix("%")
    return name, device, str(stats.get("hlo_module", "")), scope


def _alone(events: list[tuple[float, float, str, str, str, str]]) -> Iterator[Operation]:
    """The events of one line, each without the time of those within it."""
    events = sorted(events, key=lambda event: (event[0], -event[1]))
    own = [duration for _, duration, *_ in events]
    open_: list[int] = []
    for i, (start, duration, *_) in enumerate(events):
        while open_ and sum(events[open_[-1]][:2]) <= start:
            open_.pop()
        if open_:
            own[open_[-1]] -= duration
        open_.append(i)
    for nanoseconds, (_, _, name, *rest) in zip(own, events, strict=True):
        yield Operation(name, max(nanoseconds, 0.0) / 1e9, *rest)


def origins(trace: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """The name of the compiled step beside a trace, and (kind, scope) of each of its instructions;
    ("", {}) without one."""
    beside = [above / PROGRAM for above in trace.resolve().parents[:4]]
    file = next((file for file in beside if file.is_file()), None)
    if file is None:
        return "", {}
    text = file.read_text()
    module, program = text.split(None, 2)[1].rstrip(","), Program(text)
    return module, {
        instruction.name: (kind(instruction, program.computations), _scope(instruction, program))
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
    }


def kind(instruction: Instruction, computations: dict[str, Computation]) -> str:
    """What an instruction does, in a word or two; of a fusion what matters most in it."""
    opcodes, targets = {instruction.opcode}, instruction.attributes
    if instruction.opcode in ("fusion", "call", "async-start"):
        inner = [i for i in _within(instruction, computations)]
        opcodes = {i.opcode for i in inner}
        targets += " ".join(i.attributes for i in inner if i.opcode == "custom-call")
    if any(opcode.startswith(COLLECTIVES) for opcode in opcodes):
        return "collective"
    if re.search(r'custom_call_target="[^"]*(fmha|attention|flash)', targets, re.IGNORECASE):
        return "attention kernel"
    if opcodes & {"dot", "convolution"} or re.search(r"(gemm|matmul|conv)", _target(targets)):
        return "matrix product"
    if "custom-call" in opcodes:
        return f"custom {_target(targets)}".strip()
    if instruction.opcode in ("while", "conditional", "call"):
        return "control flow"
    if opcodes & {"reduce", "reduce-window", "sort", "scatter"}:
        return "reduction"
    if opcodes <= MOVES:
        return "data movement"
    return "element by element"


def _target(text: str) -> str:
    return " ".join(re.findall(r'custom_call_target="([^"]*)"', text)).lower()


def _within(
    instruction: Instruction, computations: dict[str, Computation]
) -> Iterator[Instruction]:
    for name in instruction.called():
        for inner in computations[name].instructions.values() if name in computations else ():
            yield inner
            yield from _within(inner, computations)


def _scope(instruction: Instruction, program: Program) -> str:
    """Where an instruction comes from; a fusion without a word on it, where its parts do."""
    names = (i.attributes for i in (instruction, *_within(instruction, program.computations)))
    found = (re.search(r'op_name="([^"]*)"', text) for text in names)
    # Arguments are named after their place in the state; what was traced has a path.
    return next((match[1] for match in found if match and "/" in match[1]), "")


def layer(scope: str, depth: int) -> tuple[str, str]:
    """(layer, pass) of a scope: ("Transformer/encoderblock_0/MlpBlock_0", "backward").

    A layer's path has at most `depth` names, without JAX's own and without the operation itself.
    """
    if not scope:
        return "(not named)", ""
    run = "backward" if "transpose(" in scope else "forward" if "jvp(" in scope else ""
    if "rematted_computation" in scope:
        run = "recomputed"
    path, *several = scope.split("/(", 1)  # XLA has merged what several layers do
    models = list(_MODEL.finditer(path))  # rematerialised blocks say their whole path twice
    path = "/" + path[models[-1].end() :].lstrip(")/") if models else path
    names = _WRAPPER.sub("", path).replace(")", "").split("/")
    names = names[1:] if several else names[1:-1]
    names = [name for name in names if name not in _NO_LAYER and "->" not in name]
    names = [re.sub(r"^[A-Z]\w*\._?(?=\w+$)", "", name) for name in names]  # ViT._embed
    if several:
        return "/".join([*names[:depth], "(several)"]), run
    return "/".join(names[:depth]) or "(loss and the rest)", run


def describe(
    operations: list[Operation],
    steps: int,
    program: tuple[str, dict[str, tuple[str, str]]],
    top: int,
    depth: int,
) -> str:
    """Three tables; `program` is what `origins` gives."""
    module, known = program
    devices = len({operation.device for operation in operations})
    whole = sum(operation.seconds for operation in operations)
    shared = devices * max(steps, 1)

    def origin(o: Operation) -> tuple[str, str]:
        # Names are those of one program only; evaluations and saves run others.
        unknown = ("not in the step's program", "")
        return known.get(o.name, unknown) if o.module in ("", module) else unknown

    def scope(o: Operation) -> str:
        return origin(o)[1] or o.scope

    def kind_of(o: Operation) -> str:
        return origin(o)[0]

    def by_layer(o: Operation) -> tuple[str, ...]:
        return layer(scope(o), depth)

    def by_operation(o: Operation) -> tuple[str, ...]:
        where, run = layer(scope(o), 99)
        return o.name, kind_of(o), f"{where} {run}".strip()

    def table(title: str, key: Callable[[Operation], tuple[str, ...]]) -> Iterable[str]:
        seconds: dict[tuple[str, ...], float] = defaultdict(float)
        runs: dict[tuple[str, ...], int] = defaultdict(int)
        for operation in operations:
            seconds[key(operation)] += operation.seconds
            runs[key(operation)] += 1
        ranked = sorted(seconds, key=lambda k: -seconds[k])
        yield f"\n{title}\n{'ms':>10} {'share':>6} {'runs':>7}"
        for k in ranked[:top]:
            ms, share = 1e3 * seconds[k] / shared, seconds[k] / whole
            yield f"{ms:10.3f} {share:6.1%} {runs[k] / shared:7.1f}  {'  '.join(k).rstrip()}"
        if len(ranked) > top:
            rest = sum(seconds[k] for k in ranked[top:])
            yield f"{1e3 * rest / shared:10.3f} {rest / whole:6.1%} {len(ranked) - top:12} more"

    unit = f"a step of {steps}" if steps else "all of the trace, which marks no steps"
    lines = [
        f"{1e3 * whole / shared:.3f} ms of operations a device: mean over {devices} devices, {unit}"
    ]
    if not known:
        lines.append(f"no {PROGRAM} beside the trace: layers and kinds are those the trace tells")
    lines += table("by layer", by_layer)
    lines += table("by kind", lambda o: (kind_of(o),))
    lines += table("top operations", by_operation)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
