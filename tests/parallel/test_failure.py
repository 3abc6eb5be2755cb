"""Processes of a run end together, and their exit codes tell a scheduler what to do."""

import signal
import socket
import threading
import time
from pathlib import Path

import jax
import pytest
import several

from big_vit_lite import config
from big_vit_lite.exit_codes import PEER_ENDED
from big_vit_lite.parallel import cluster, failure

JOINED = Path(__file__).parent / "joined.py"


def wait_until_joined(started, files):
    end = time.monotonic() + 60
    while any("joined" not in several.output(files, i) for i in range(len(started))):
        assert time.monotonic() < end and all(p.poll() is None for p in started)
        time.sleep(0.05)


def test_a_frozen_process_ends_the_others_within_the_heartbeat(tmp_path):
    """Its sockets stay open: nothing but the heartbeat can tell. JAX's own default is 100 s."""
    three = several.start(JOINED, 3, 1, tmp_path, "--heartbeat", 3)
    try:
        wait_until_joined(three, tmp_path)
        time.sleep(0.5)
        assert all(p.poll() is None for p in three)  # beating, they live on
        three[2].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        codes = several.wait(three[:2], 20)
        assert time.monotonic() - began < 2 * 3 + 4
    finally:
        three[2].kill()
    assert codes == [PEER_ENDED] * 2  # JAX aborts them, which ours notices
    assert "has been silent for too long" in several.output(tmp_path, 0)


def test_the_loss_of_the_first_process_ends_the_others_with_4(tmp_path):
    two = several.start(JOINED, 2, 1, tmp_path)
    wait_until_joined(two, tmp_path)
    two[0].kill()
    began = time.monotonic()
    assert two[1].wait(20) == PEER_ENDED
    assert time.monotonic() - began < 5  # 6 later it would be aborted


@pytest.mark.parametrize("fails", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_that_fails_gives_the_others_its_exit_code(tmp_path, fails):
    two = several.start(JOINED, 2, 1, tmp_path, "--fails", fails)
    assert several.wait(two, 60) == [1, 1]
    assert several.output(tmp_path, fails) == "joined\nthis one failed"
    said = f"joined\nprocess {fails} failed, see there; this one ends, too."
    assert several.output(tmp_path, 1 - fails) == said


@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_signal_to_one_before_the_first_step_stops_all(tmp_path, stopped):
    two = several.start(JOINED, 2, 1, tmp_path)
    wait_until_joined(two, tmp_path)
    two[stopped].send_signal(signal.SIGTERM)
    assert several.wait(two, 20) == [3, 3]
    said = f"joined\nprocess {stopped} was stopped before the first step; this one ends, too."
    assert several.output(tmp_path, 1 - stopped) == said


def test_one_whose_others_do_not_come_ends_with_4(tmp_path):
    (first, second) = several.start(JOINED, 2, 1, tmp_path, "--start", 2)
    second.kill()
    assert several.wait([first], 60) == [PEER_ENDED]
    said = several.output(tmp_path, 0)
    assert said.startswith("process 0 of 2 cannot join the others at 127.0.0.1:")
    assert said.endswith(
        "in 2 s; start process 0 on that host, with that port open, and all others too"
    )


@pytest.mark.parametrize(("others_come_after", "said"), [(0.0, False), (0.5, True)])
def test_one_that_waits_for_the_others_says_so_once(monkeypatch, capsys, others_come_after, said):
    arrived, told = threading.Event(), {"coordinator": "a:1", "processes": 4, "process": 3}
    monkeypatch.setattr(cluster, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(cluster.failure, "follow", arrived.set)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, **more: time.sleep(others_come_after)
    )
    cluster.join(told, {})
    assert arrived.is_set()
    time.sleep(0.2)  # long enough for a line that should not come any more
    line = "process 3 of 4 waits for the others at a:1\n"
    assert capsys.readouterr().err == (line if said else "")


def test_a_port_that_is_taken_is_one_sentence():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        place = {"coordinator": f"127.0.0.1:{port}", "processes": 2, "process": 0}
        with pytest.raises(config.InputError, match=f"process 0 cannot listen at port {port}: Add"):
            cluster.join(place, {})


class Service:
    """The coordination service as one of two processes sees it."""

    def __init__(self, all_here, told=None):
        self.all_here, self.told = all_here, told

    def wait_at_barrier(self, name, milliseconds):
        if not self.all_here:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: not all came")

    def key_value_set(self, key, value):
        if self.told is not None:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
        self.told = value

    def key_value_try_get(self, key):
        return self.told


def wrapped(error, cause):
    error.__cause__ = cause
    return error


CLOSED = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")


@pytest.mark.parametrize(
    ("error", "all_here", "told", "code"),
    [
        (CLOSED, False, None, 4),
        (wrapped(config.RunError("could not save step 3"), CLOSED), False, None, 4),
        (CLOSED, False, "1 0", 1),  # process 0 had said that it failed by itself
        (CLOSED, False, "2 0", 2),
        (CLOSED, True, None, 1),  # all are there: it is the program that fails
        (MEMORY, False, None, 1),
        (config.RunError("loss is nan"), False, None, 1),
        (config.InputError("no such file"), False, None, 2),
        (config.InputError("no such file"), True, "1 0", 1),
        (KeyError("a defect"), False, None, 1),
    ],
)
def test_exit_codes_of_several_processes(monkeypatch, capfd, error, all_here, told, code):
    service, left = Service(all_here, told), []
    monkeypatch.setattr(failure, "several", lambda: True)
    monkeypatch.setattr(failure, "client", lambda: service)
    monkeypatch.setattr(failure, "_code", PEER_ENDED)
    monkeypatch.setattr(failure, "_leave", left.append)

    def command():
        raise error

    returned = failure.ending(command)
    assert (left, returned) == (([], code) if all_here else ([code], None))
    assert service.told == (told or f"{code} 0")
    assert ("run the same command again" in capfd.readouterr().err) == (code == 4)
