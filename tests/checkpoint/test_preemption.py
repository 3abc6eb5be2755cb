"""The first signal asks a run to stop, the second ends it."""

import signal
import subprocess
import sys

import pytest

from big_vit_lite.checkpoint import StopRequest

WAITING = """
import time
from big_vit_lite.checkpoint import StopRequest
with StopRequest() as stop:
    print("running", flush=True)
    while not stop:
        time.sleep(0.01)
    print("asked by", stop.received, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
def test_the_first_signal_asks_and_the_second_ends_the_process_at_once(first, second):
    with subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"asked by {first}\n"
        said = f"{first.name}: saving after this step, then stopping; a second one stops at once.\n"
        assert process.stderr.readline() == said
        process.send_signal(second)
        assert process.wait(20) == 128 + second


def test_handlers_come_back():
    former = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop and signal.getsignal(signal.SIGTERM) == stop._handle
    assert signal.getsignal(signal.SIGTERM) is former
