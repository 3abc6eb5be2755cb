"""Starts the processes of one run on this machine, each with some CPU devices of its own."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, processes: int, devices: int, files: Path, *options) -> list[subprocess.Popen]:
    """`command` (a module's name or a script) once for each process; output to FILES/I.log."""
    port, started = free_port(), []
    files.mkdir(parents=True, exist_ok=True)
    program = ["-m", command] if isinstance(command, str) else [str(command)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONFAULTHANDLER": ""}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    for i in range(processes):
        where = ()
        if processes > 1:
            where = ("--coordinator", f"127.0.0.1:{port}", "--processes", str(processes),
                     "--process", str(i))  # fmt: skip
        with open(files / f"{i}.log", "w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *program, *map(str, options), *where],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip
            )
    return started


def in_turn(processes: int, devices: int, files: Path, *commands: list) -> list[subprocess.Popen]:
    """Commands (a module's name and its words) one after the other in the same processes."""
    texts = [[str(word) for word in command] for command in commands]
    return start(ROOT / "tests" / "in_turn.py", processes, devices, files, json.dumps(texts))


def wait(started: list[subprocess.Popen], seconds: float = 240) -> list[int]:
    """Exit codes; whatever still runs after so long is killed and fails the test."""
    try:
        return [process.wait(seconds) for process in started]
    finally:
        for process in started:
            process.kill()


def output(files: Path, i: int) -> str:
    """What process `i` said, without the lines of libraries in C++."""
    lines = (files / f"{i}.log").read_text().splitlines()
    return "\n".join(line for line in lines if not re.match(r"\[Gloo\]|[IWE]\d{4} [\d:.]+ ", line))
