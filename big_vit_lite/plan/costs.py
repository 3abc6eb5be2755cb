"""What a compiled program moves: between devices, by kind of collective, and through main memory.

Sizes are those of one device in one step. On the wire, with n devices in a group and rings in all
directions, an all-gather of a result of S bytes receives S (n-1)/n, an all-reduce twice that, a
reduce-scatter of an argument of S bytes S (n-1)/n, a permutation S (Rabenseifner 2004).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from big_vit_lite.plan.hlo import Computation, Instruction, Program, arrays, type_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass
class Collective:
    """All collectives of one kind.

    Attributes:
        count: how many stand in the program.
        executed: how many run in a step, loops counted as often as they turn.
        bytes: received by one device in a step, within its slice.
        network_bytes: the same from other slices, over the data centre's network.
    """

    count: int = 0
    executed: int = 0
    bytes: int = 0
    network_bytes: int = 0


def collectives(program: Program, slice_of: np.ndarray) -> dict[str, Collective]:
    """Collectives by kind, those that do not occur left out.

    Args:
        slice_of: slice of each device, in the order of the mesh.
    """
    found: dict[str, Collective] = {}
    seen: dict[tuple, tuple[str, int, int, int]] = {}
    for computation in program.computations.values():
        times = program.times[computation.name]
        for instruction in computation.instructions.values() if times else ():
            kind = instruction.opcode.removesuffix("-start")
            if crossing := _between_slices(instruction, slice_of):
                kind, across = crossing
                seen[(computation.name, instruction.name)] = (kind, times, 0, across)
            if kind not in KINDS or crossing:
                continue
            groups = _groups(instruction, len(slice_of))
            payload = _payload(kind, instruction, computation)
            if "all-reduce-scatter" in computation.name:  # how TPUs write a reduce-scatter
                kind = "reduce-scatter"
            inside, across = _wire(kind, payload, groups, slice_of)
            # One collective spread over several fusions, to run beside them, keeps its channel.
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            key = (kind, channel[1]) if channel else (computation.name, instruction.name)
            if key not in seen or seen[key][1] < times:
                seen[key] = (kind, times, inside, across)
    for kind, times, inside, across in seen.values():
        total = found.setdefault(kind, Collective())
        total.count += 1
        total.executed += times
        total.bytes += times * inside
        total.network_bytes += times * across
    return {kind: found[kind] for kind in KINDS if kind in found}


def _between_slices(instruction: Instruction, slice_of: np.ndarray) -> tuple[str, int] | None:
    """Kind and bytes of what crosses between slices: TPUs' hosts do it (Megascale), and the program
    has a `recv` in its place that names it."""
    named = re.search(r'_xla_host_transfer_rendezvous="([a-z-]+)', instruction.attributes)
    if instruction.opcode != "recv" or not named:
        return None
    kind = next((kind for kind in KINDS if named[1].startswith(kind)), "collective-permute")
    received, slices = type_bytes(arrays(instruction.type)[0]), len(set(slice_of.tolist()))
    if kind == "all-reduce":
        received = int(received * 2 * (slices - 1) / slices)
    return kind, received


def _payload(kind: str, instruction: Instruction, computation: Computation) -> int:
    """Bytes of the whole: the result of a gather, the argument of all others."""
    if kind == "all-gather":
        parts = arrays(instruction.type)
        results = parts[len(parts) // 2 :] if instruction.opcode.endswith("-start") else parts
        return sum(map(type_bytes, results))
    operands = (computation.instructions.get(name) for name in instruction.operands)
    return sum(operand.bytes for operand in operands if operand)


def _groups(instruction: Instruction, devices: int) -> list[list[int]]:
    """Devices that exchange with each other, by their place in the mesh."""
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        return [list(map(int, p)) for p in re.findall(r"\{(\d+),(\d+)\}", pairs[1])]
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", text):
        return [list(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = np.arange(int(iota[1]) * int(iota[2])).reshape([int(n) for n in iota[3].split(",")])
        if iota[4]:
            ids = ids.transpose([int(n) for n in iota[4].split(",")])
        return ids.reshape(int(iota[1]), int(iota[2])).tolist()
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        return _mesh_groups(named[1], named[2])
    return [list(range(devices))]


def _mesh_groups(axes: str, over: str) -> list[list[int]]:
    """Groups of "'a'=2,'b'=8" over "'b'", or over a part of an axis, "'b':(2)4"."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    sides, names = list(sizes.values()), list(sizes)
    ids, chosen, place = np.arange(math.prod(sides)), [], {}
    shape: list[int] = []
    parts = {
        name: (int(before), int(size))
        for name, before, size in re.findall(r"'(\w+)':\((\d+)\)(\d+)", over)
    }
    whole = set(re.findall(r"'(\w+)'(?!:)", over))
    for name in names:
        place[name] = len(shape)
        if name in parts:
            before, size = parts[name]
            chosen.append(len(shape) + 1)
            shape += [before, size, sizes[name] // (before * size)]
        else:
            if name in whole:
                chosen.append(len(shape))
            shape.append(sizes[name])
    ids = np.moveaxis(ids.reshape(shape), chosen, range(-len(chosen), 0))
    return ids.reshape(-1, math.prod(shape[i] for i in chosen)).tolist()


def _wire(
    kind: str, payload: int, groups: list[list[int]], slice_of: np.ndarray
) -> tuple[int, int]:
    """Bytes that one device receives within its slice, and from others.

    Across slices each device exchanges its share of what its slice has made of the whole.
    """
    if kind == "collective-permute":
        across = any(slice_of[a] != slice_of[b] for a, b in groups)
        return (0, payload) if across else (payload, 0)
    size = max(map(len, groups))
    slices = max(len({int(slice_of[i]) for i in group}) for group in groups)
    passes = 2 if kind == "all-reduce" else 1
    inside, share = size // slices, payload // max(1, size // slices)
    if kind in ("all-gather", "reduce-scatter") and slices > 1:
        share = payload // size
        return (
            int(payload * (inside - 1) / inside),
            int(share * (slices - 1)),
        )
    return (
        int(passes * payload * (inside - 1) / inside),
        int(passes * share * (slices - 1) / slices),
    )


_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "opt-barrier", "partition-id", "replica-id", "iota",
}  # fmt: skip
# Custom calls that name memory and move nothing.
_UNTOUCHED = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|AsyncCollective)')
_SLICES = ("dynamic-slice", "slice", "gather")


def memory_traffic(program: Program) -> int:
    """Bytes that a step reads from and writes to a device's main memory.

    Every instruction outside of fusions reads its operands and writes its result; of what it only
    slices it reads the slice, and of what it updates in place it writes the update. Arrays in a
    TPU's fast memory (VMEM) count when they are copied there and back.
    """
    total = 0
    for computation in program.computations.values():
        times = program.times[computation.name]
        if not times or computation.name in program.fused:
            continue
        for instruction in computation.instructions.values():
            total += times * _touched(instruction, computation, program)
    return total


def _touched(instruction: Instruction, computation: Computation, program: Program) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or _UNTOUCHED.search(instruction.attributes):
        return 0
    operands = [computation.instructions.get(name) for name in instruction.operands]
    read = [operand.memory_bytes if operand else 0 for operand in operands]
    if opcode == "slice-start":  # ((whole), part, context); one of the two is in fast memory
        return type_bytes(arrays(instruction.type)[1])
    if opcode.endswith("-start"):  # its type repeats the operands
        return sum(read) + max(0, instruction.memory_bytes - sum(read))
    if opcode in _SLICES:
        return 2 * instruction.memory_bytes
    if opcode == "dynamic-update-slice":
        return 2 * read[1]
    if opcode == "fusion":
        return _fusion_touched(instruction, read, program)
    return sum(read) + instruction.memory_bytes


def _fusion_touched(fusion: Instruction, read: list[int], program: Program) -> int:
    body = program.computations.get(next(iter(fusion.called()), ""))
    if body is None:
        return sum(read) + fusion.memory_bytes
    total, written = 0, fusion.memory_bytes
    for parameter in _parameters(body):
        index = int(parameter.inside)
        whole = read[index] if index < len(read) else 0
        uses = _uses(parameter, body)
        if uses and all(_updates(use, parameter, body) for use in uses):
            updates = sum(body.instructions[use.operands[1]].bytes for use in uses)
            written -= min(written, max(0, whole - updates))  # in place: only the update
        else:
            total += min(whole, _read_inside(parameter, body, program, whole))
    return total + written


def _read_inside(parameter: Instruction, body: Computation, program: Program, whole: int) -> int:
    """Bytes that a fusion reads of one operand: what it slices, or all."""
    total = 0
    for use in _uses(parameter, body):
        if use.opcode in _SLICES:
            total += use.bytes
        elif use.opcode == "fusion":  # one within the other
            inner = program.computations.get(next(iter(use.called()), ""))
            for nested in _parameters(inner) if inner else ():
                if use.operands[int(nested.inside)] in _aliases(parameter, body):
                    total += _read_inside(nested, inner, program, whole)
        else:
            return whole
    return total


def _parameters(body: Computation) -> list[Instruction]:
    return [i for i in body.instructions.values() if i.opcode == "parameter"]


def _aliases(instruction: Instruction, body: Computation) -> set[str]:
    """Names of an instruction and of its bitcasts."""
    names = {instruction.name}
    for use in body.users[instruction.name]:
        if use.opcode == "bitcast":
            names |= _aliases(use, body)
    return names


def _uses(instruction: Instruction, body: Computation) -> list[Instruction]:
    """Who reads an instruction, seen through bitcasts."""
    found = []
    for use in body.users[instruction.name]:
        found += _uses(use, body) if use.opcode == "bitcast" else [use]
    return found


def _updates(use: Instruction, updated: Instruction, body: Computation) -> bool:
    """Whether `use` overwrites a part of `updated` and does nothing else with it."""
    if use.opcode != "dynamic-update-slice" or use.operands[1] not in body.instructions:
        return False
    target = body.instructions.get(use.operands[0])
    while target is not None and target.opcode == "bitcast":
        target = body.instructions.get(target.operands[0])
    return target is updated
