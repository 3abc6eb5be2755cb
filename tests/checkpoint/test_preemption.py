"""The first signal asks a run to stop, the second ends it; before the first step one is enough."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import several

from big_vit_lite.checkpoint import StopRequest
from big_vit_lite.exit_codes import STOPPED

STUCK = """
import ctypes

def stuck():  # in C for good, without the interpreter's lock, whatever signals come
    print("stuck", flush=True)
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
WAITING = """
import time
from big_vit_lite.checkpoint import StopRequest
with StopRequest(at_start=3) as stop:
    stop.begin()
    print("running", flush=True)
    while not stop:
        time.sleep(0.01)
    print("asked by", stop.received, flush=True)
    if IN_C:
        stuck()
    time.sleep(60)
"""
BEFORE_THE_FIRST_STEP = """
import sys
from big_vit_lite import parallel, train
from big_vit_lite.checkpoint import StopRequest
parallel.compile_training = lambda *arguments: stuck()
with StopRequest(at_start=3) as stop:
    train.main(sys.argv[1:], stop=stop)
"""


@contextlib.contextmanager
def child(*words):
    with subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": f"{several.ROOT}:{':'.join(sys.path)}"},
        cwd=several.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("first", "second", "in_c"),
    [
        (signal.SIGTERM, signal.SIGTERM, False),
        (signal.SIGINT, signal.SIGTERM, False),
        (signal.SIGTERM, signal.SIGINT, True),
    ],
)
def test_the_first_signal_asks_and_the_second_ends_the_process_at_once(first, second, in_c):
    with child("-c", f"{STUCK}\nIN_C = {in_c}\n{WAITING}") as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"asked by {first}\n"
        said = f"{first.name}: saving after this step, then stopping; a second one stops at once.\n"
        assert process.stderr.readline() == said
        if in_c:
            assert process.stdout.readline() == "stuck\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGWINCH)  # no signal of ours
        process.send_signal(second)
        assert process.wait(20 if not in_c else 1) == 128 + second


def test_both_signals_may_come_while_the_main_thread_is_in_c():
    waiting = WAITING.replace("while not stop:", "stuck()\n    while not stop:")
    with child("-c", f"{STUCK}\nIN_C = True\n{waiting}") as process:
        assert [process.stdout.readline() for _ in range(2)] == ["running\n", "stuck\n"]
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)  # the first asks only
        process.send_signal(signal.SIGTERM)
        assert process.wait(1) == 128 + signal.SIGTERM


def test_a_signal_while_the_command_is_imported_ends_it_at_once_with_code_3():
    with child("-m", "big_vit_lite.train", "--config", "no.py") as process:
        end = time.monotonic() + 20
        while not caught(process.pid, signal.SIGTERM):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(1) == STOPPED == 3
        assert process.stderr.read() == "SIGTERM before the first step: nothing to save.\n"


def caught(pid, number):
    with open(f"/proc/{pid}/status") as status:
        (mask,) = (int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


def test_a_signal_while_the_step_is_compiled_ends_the_command_at_once_with_code_3(tmp_path):
    options = ("--config", "configs/quickstart.py:tiny", "--workdir", tmp_path)
    with child("-c", STUCK + BEFORE_THE_FIRST_STEP, *options) as process:
        lines = []
        while not lines or lines[-1] not in ("stuck\n", ""):
            lines.append(process.stdout.readline())
        assert lines[-1] == "stuck\n", process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == STOPPED
        assert "SIGINT before the first step: nothing to save.\n" in process.stderr.read()


def test_handlers_come_back_and_nothing_stays_open():
    former, open_before = signal.getsignal(signal.SIGTERM), os.listdir("/proc/self/fd")
    threads = threading.active_count()
    with StopRequest() as stop:
        assert not stop and signal.getsignal(signal.SIGTERM) == stop._handle
        signal.raise_signal(signal.SIGTERM)
        assert stop and stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is former
    assert signal.set_wakeup_fd(-1) == -1
    assert os.listdir("/proc/self/fd") == open_before and threading.active_count() == threads


def test_outside_the_main_thread_it_never_asks():
    former = signal.getsignal(signal.SIGTERM)

    def run():
        with StopRequest() as stop:
            found.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, former)]
