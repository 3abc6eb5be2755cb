"""Start-up of a run on several hosts, found out or given by hand.

What is not given is detected, see `detection`. Where nothing can be, every process is told the same
coordinator and its own number.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from big_vit_lite.config import Fault, InputError, Option
from big_vit_lite.exit_codes import PEER_ENDED
from big_vit_lite.parallel import failure
from big_vit_lite.parallel.detection import Place, detect

START_SECONDS = 300  # how long processes wait for each other at the start
SILENT_SECONDS = 10  # how long without a word; hosts that start together differ by some seconds
_ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "processes": "JAX_NUM_PROCESSES",
    "process": "JAX_PROCESS_ID",
}


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("wants HOST:PORT, the same for every process, as in 10.0.0.1:8476")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("wants a whole number from 1 on")
    return int(text)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("wants this process's own number, from 0 on")
    return int(text)


OPTIONS = (
    Option(
        "coordinator",
        "HOST:PORT",
        "Several hosts, by hand: where process 0 listens; the same for all. Not needed on Cloud "
        "TPU, GKE and SLURM, nor on one host. Or $JAX_COORDINATOR_ADDRESS.",
        type=_address,
    ),
    Option(
        "processes", "N", "How many processes there are together. Or $JAX_NUM_PROCESSES.", _count
    ),
    Option("process", "I", "Which of them this is, 0 to N - 1. Or $JAX_PROCESS_ID.", _index),
    Option(
        "heartbeat",
        "SECONDS",
        "A process that is silent for so long counts as dead, which ends the others; 100 by "
        "default.",
        _count,
    ),
)
"""What a command takes that can run on several hosts."""


def join(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of this run, if there are any; before JAX's first use of a device.

    Args:
        options: values of OPTIONS that were given.

    Raises:
        InputError: told too little, or the coordinator's port is taken.

    Says on stderr that it waits, once SILENT_SECONDS have passed. Ends the process with PEER_ENDED
    if the others do not come in START_SECONDS.
    """
    import jax

    place = find_place(options, environ)
    if place is None or jax.distributed.is_initialized():
        return
    if place.process == 0:
        _check_port(place)
    # Its handler would take SIGTERM from the program's own, which knows Ctrl-C as well.
    jax.config.update("jax_enable_preemption_service", False)
    with _waiting(place):
        try:
            jax.distributed.initialize(
                place.coordinator,
                place.processes,
                place.process,
                place.devices,
                cluster_detection_method="deactivate",
                initialization_timeout=START_SECONDS + 60,
                heartbeat_timeout_seconds=options.get("heartbeat", 100),
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{_cannot_join(place)}: {reason}") from None
    failure.follow()


def _check_port(place: Place) -> None:
    """Raises InputError if process 0 cannot listen where it is to, for JAX crashes then."""
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return
    port = int(place.coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise InputError(
                f"process 0 cannot listen at port {port}: {os.strerror(error.errno)}; see whether "
                "an earlier run is still there, or give all processes another --coordinator"
            ) from None


@contextlib.contextmanager
def _waiting(place: Place) -> Iterator[None]:
    """Tells of what it encloses if that takes longer than SILENT_SECONDS, and ends the process
    after START_SECONDS: JAX would abort."""

    def tell() -> None:
        print(
            f"process {place.process} of {place.processes} waits for the others at "
            f"{place.coordinator}",
            file=sys.stderr,
            flush=True,
        )

    def give_up() -> None:
        print(
            f"{_cannot_join(place)} in {START_SECONDS} s; start process 0 on that host, with that "
            "port open, and all others too",
            file=sys.stderr,
            flush=True,
        )
        os._exit(PEER_ENDED)

    timers = [threading.Timer(SILENT_SECONDS, tell), threading.Timer(START_SECONDS, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _cannot_join(place: Place) -> str:
    return (
        f"process {place.process} of {place.processes} cannot join the others at "
        f"{place.coordinator}"
    )


def find_place(options: Mapping[str, Any], environ: Mapping[str, str]) -> Place | None:
    """Where this process stands: options before environment before what JAX detects.

    Returns:
        None for the only process of a run.

    Raises:
        InputError: some of it is known and the rest is not, or it contradicts itself.
        PeerError: the host of process 0 is not there.
    """
    types = {option.name: option.type for option in OPTIONS}
    given, faults = {}, []
    for name, variable in _ENVIRONMENT.items():
        if name in options:
            given[name] = options[name]
        elif variable in environ:
            try:
                given[name] = types[name](environ[variable])
            except ValueError as error:
                faults.append(Fault(f"${variable}", str(error), environ[variable]))
    if faults:
        raise InputError("\n".join(map(str, faults)), faults)
    if given.get("processes") == 1:
        # Given by hand it overrides the environment of a run of several, the number included.
        number = (options if "processes" in options else given).get("process")
        if number:
            raise InputError(
                f"--process {number} contradicts --processes 1: the only process of a run is "
                "number 0; leave --process out, or say how many there are"
            )
        return None
    devices = None
    if len(given) < len(_ENVIRONMENT):
        detected = detect(START_SECONDS)
        if detected is not None:
            given = dict(zip(_ENVIRONMENT, detected, strict=False)) | given
            devices = detected.devices
        elif not given:
            return None
    missing = [f"--{name}" for name in _ENVIRONMENT if name not in given]
    if missing:
        have = ", ".join(f"--{name} {value}" for name, value in given.items())
        raise InputError(
            f"there is {have}, but no {' and no '.join(missing)}: a run of several processes wants "
            "all three (--process differs), unless JAX finds out on Cloud TPU, GKE or SLURM"
        )
    if given["process"] >= given["processes"]:
        raise InputError(
            f"--process {given['process']} is not among the {given['processes']} processes, which "
            f"are counted from 0 to {given['processes'] - 1}"
        )
    return Place(given["coordinator"], given["processes"], given["process"], devices)
