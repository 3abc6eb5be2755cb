"""Reads the text of a compiled program: its instructions, and how often each runs in a step.

XLA's own cost analysis counts the body of a loop once, and a model whose layers are scanned is one
loop; here bodies count as often as their loop turns, where its condition says so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (.*)")
_OPCODE = re.compile(r"\s*([a-z][\w-]*)\(")
_OPERAND = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?%?([\w.-]+(?:, ?%[\w.-]+)*)")
_TRIPS = re.compile(r'known_trip_count[^}]*?"n":"(\d+)"')
_CONSTANT = re.compile(r"constant\((\d+)\)")


@dataclass(frozen=True)
class Instruction:
    """One line of the program.

    Attributes:
        type: shape of the result, a tuple's with all its parts.
        attributes: what stands behind the operands.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    inside: str  # text between the parentheses
    root: bool

    @cached_property
    def bytes(self) -> int:
        """Bytes of the result."""
        return type_bytes(self.type)

    @cached_property
    def memory_bytes(self) -> int:
        """Bytes of the result that lie in the device's main memory, not in its fast one."""
        return type_bytes(self.type, main_memory_only=True)

    def called(self) -> list[str]:
        """Computations that it runs, but for a loop's condition."""
        names = []
        for group in _CALLED.findall(self.attributes):
            names += [name.strip().removeprefix("%") for name in group.split(",")]
        return names


@dataclass
class Computation:
    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        found = defaultdict(list)
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                found[operand].append(instruction)
        return found

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)


def type_bytes(text: str, main_memory_only: bool = False) -> int:
    """Bytes of "f32[8,128]{1,0:T(8,128)}" or of a tuple of such, without padding.

    Args:
        main_memory_only: leave out what lies in another memory space, as S(1), a TPU's VMEM.
    """
    total = 0
    for name, shape, layout in _ARRAY.findall(text):
        if name not in BYTES or (main_memory_only and re.search(r"S\([1-9]", layout)):
            continue
        size = BYTES[name]
        for side in filter(None, shape.split(",")):
            size *= int(side)
        total += size
    return total


def arrays(text: str) -> list[str]:
    """The types within a tuple's type, nested ones too."""
    return [match.group() for match in _ARRAY.finditer(text)]


class Program:
    """A compiled program: computations by name, and how often each runs.

    Attributes:
        times: runs of each computation in one call of the program.
        unknown_loops: loops whose number of turns their text does not tell; counted once.
        fused: names of computations that are bodies of fusions: their inner values stay on chip.
    """

    def __init__(self, text: str):
        self.computations, self.entry = _read(text)
        self.times: dict[str, int] = defaultdict(int)
        self.fused: set[str] = set()
        self.unknown_loops = 0
        self._run(self.entry, 1)

    def _run(self, name: str, times: int) -> None:
        computation = self.computations.get(name)
        if computation is None:
            return
        self.times[name] += times
        for instruction in computation.instructions.values():
            turns = self.trips(instruction) if instruction.opcode == "while" else 1
            for called in instruction.called():
                if instruction.opcode == "fusion":
                    self.fused.add(called)
                if instruction.opcode not in ("reduce", "sort", "scatter", "select-and-scatter"):
                    self._run(called, times * turns)

    def trips(self, loop: Instruction) -> int:
        """Turns of a `while`: what XLA noted, or the constant its condition compares with."""
        if noted := _TRIPS.search(loop.attributes):
            return int(noted[1])
        condition = re.search(r"condition=%?([\w.-]+)", loop.attributes)
        constants = []
        if condition and condition[1] in self.computations:
            body = self.computations[condition[1]].instructions.values()
            if any("direction=LT" in i.attributes for i in body):
                constants = [
                    _CONSTANT.search(f"constant({i.inside})")
                    for i in body
                    if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.type)
                ]
        found = [int(match[1]) for match in constants if match]
        if len(found) != 1:
            self.unknown_loops += 1
            return 1
        return found[0]


def _read(text: str) -> tuple[dict[str, Computation], str]:
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if current is None:
            head = None if line.startswith((" ", "HloModule")) else _COMPUTATION.match(line)
            if head:
                current = Computation(head[2])
                computations[current.name] = current
                entry = current.name if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := _INSTRUCTION.match(line):
            instruction = _instruction(match[2], match[3], bool(match[1]))
            if instruction:
                current.instructions[instruction.name] = instruction
    return computations, entry


def _instruction(name: str, text: str, root: bool) -> Instruction | None:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    if opcode is None:
        return None
    begin = opcode.end() - 1
    close = _closing(text, begin)
    inside = text[begin + 1 : close]
    operands = tuple(_OPERAND.findall(inside))
    return Instruction(name, text[:end], opcode[1], operands, text[close + 1 :], inside, root)


def _closing(text: str, begin: int) -> int:
    """Position of the parenthesis that closes the one at `begin`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, begin):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
