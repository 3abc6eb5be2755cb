"""Start-up of a run on several hosts, found out or given by hand, and its end.

JAX's own detection is used for Cloud TPU (also several slices), GKE, SLURM, Open MPI and Kubernetes
jobs. Where there is none, every process is told the same coordinator and its own number.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from big_vit_lite.config import Fault, InputError, Option, exit_code

START_SECONDS = 300  # how long processes wait for each other at the start
END_SECONDS = 10  # how long a process that failed waits for the others to say the same
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


class Place(NamedTuple):
    """One process among several."""

    coordinator: str
    processes: int
    process: int
    devices: list[int] | None  # which of the host's; None: all


def join(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of this run, if there are any; before JAX's first use of a device.

    Args:
        options: values of OPTIONS that were given.

    Raises:
        InputError: told too little, or the other processes cannot be reached.
    """
    import jax

    place = find_place(options, environ)
    if place is None or jax.distributed.is_initialized():
        return
    # Its handler would take SIGTERM from the program's own, which knows Ctrl-C as well.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes,
            place.process,
            place.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=options.get("heartbeat", 100),
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"process {place.process} of {place.processes} cannot join the others at "
            f"{place.coordinator}: {reason}; start process 0 on that host, with that port free and "
            "open, and all others too"
        ) from None


def find_place(options: Mapping[str, Any], environ: Mapping[str, str]) -> Place | None:
    """Where this process stands: options before environment before what JAX detects.

    Returns:
        None for the only process of a run.

    Raises:
        InputError: some of it is known and the rest is not, or it contradicts itself.
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
    devices = None
    if len(given) < len(_ENVIRONMENT):
        *detected, devices = _detect()
        for name, value in zip(_ENVIRONMENT, detected, strict=True):
            if value is not None:
                given.setdefault(name, value)
    if not given or given.get("processes") == 1:
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


def _detect() -> tuple[str | None, int | None, int | None, list[int] | None]:
    """(coordinator, processes, process, devices) as JAX finds them; None for what it does not."""
    from jax._src.clusters import ClusterEnv  # public only as a side effect of initialize()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a lone pod on Kubernetes is told to install more
            address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, START_SECONDS
            )
    except Exception as error:
        print(f"several hosts were looked for, in vain: {error}", file=sys.stderr)
        return None, None, None, None
    # JAX gives a SLURM task one device; alone on its node it is meant to have all.
    if os.environ.get("SLURM_STEP_NUM_NODES") == str(count):
        devices = None
    if given := os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        devices = [int(number) for number in given.split(",")]
    return address, count, index, devices


def ending(command: Callable[[], int | None]) -> int:
    """Runs a command as `config.exit_code` does, and ends all processes of a run together.

    A process that fails alone would wait minutes for the others, and they for its part of a sum.
    It waits for END_SECONDS, in case they fail alike and have to say so, and then ends at once;
    theirs is the heartbeat's.
    """
    import jax

    try:
        code = exit_code(command)
    except Exception as error:
        if not several():
            raise
        traceback.print_exc()
        code = 1
        if isinstance(error, jax.errors.JaxRuntimeError):
            print(
                f"process {jax.process_index()}: a computation that all processes share failed, "
                "most likely because another one ended. The last checkpoint stands: run the same "
                "command again on all hosts.",
                file=sys.stderr,
            )
    if several() and code not in (0, 3):
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            client().wait_at_barrier("big_vit_lite/failed", END_SECONDS * 1000)
        except Exception:
            os._exit(code)
    return code


def several() -> bool:
    """Whether this run has other processes; asks nothing of devices, so JAX may start later."""
    import jax

    return jax.distributed.is_initialized()


def client() -> Any:
    """The coordination service's client: keys and barriers that need no device."""
    from jax._src import distributed  # JAX has no public way; Orbax and others go this one, too

    return distributed.global_state.client
