"""Finds the other processes of a run by what surrounds this one, as JAX does.

JAX knows Cloud TPU (also several slices), GKE, SLURM, Open MPI and Kubernetes jobs. Where it finds
none of them this is the only process; where it finds one and cannot tell the rest, or where another
launcher (torchrun, one of PMI) set its variables, it is an error, since several processes that each
believe to be alone would train the same run next to each other.
"""

import os
import warnings
from typing import Any, NamedTuple

from big_vit_lite.config import InputError, PeerError

_NAMES = {
    "OmpiCluster": "Open MPI",
    "SlurmCluster": "SLURM",
    "GkeTpuCluster": "a TPU slice of GKE",
    "GceTpuCluster": "Cloud TPU",
    "K8sCluster": "Kubernetes",
}
_STARTED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""How many processes a launcher started; of two within each other the inner one comes first."""
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""What JAX wants to be there of SLURM; with one of them missing it takes this for no step of it."""
_TORCHRUN = ("WORLD_SIZE", "RANK", "MASTER_ADDR")  # the first says how many processes there are
_INDEX = "JOB_COMPLETION_INDEX"  # a pod of an Indexed Job, such as those of a JobSet, has it


class Place(NamedTuple):
    """One process among several."""

    coordinator: str
    processes: int
    process: int
    devices: list[int] | None  # which of the host's; None: all


def detect(seconds: int) -> Place | None:
    """Where this process stands among those of its run.

    Args:
        seconds: how long to wait for the name of process 0's host to be known.

    Returns:
        None for the only process.

    Raises:
        InputError: there are other processes, or may be, and JAX cannot tell which.
        PeerError: the host of process 0 is not there.
    """
    from jax._src.clusters import ClusterEnv  # public only as a side effect of initialize()

    cluster, count = None, None
    try:
        if _started()[1] == 1:  # also within an allocation for many, as in salloc's shell
            _refuse_torchrun(1)
            return None
        for cluster in ClusterEnv._cluster_types:
            if not cluster.opt_in_only_method and _is_here(cluster):
                count = cluster.get_process_count()
                _refuse_torchrun(count)
                return None if count == 1 else _place(cluster, count, seconds)
        cluster = None
        _refuse_others()
    except (InputError, PeerError):
        raise
    except Exception as error:
        name = _NAMES.get(getattr(cluster, "__name__", ""), "what started this process")
        # Any pod may be told of Kubernetes; JAX can ask only for those of an Indexed Job.
        if name == "Kubernetes" and count is None and _INDEX not in os.environ:
            _refuse_torchrun(1)
            return None
        raise _unknown(f"{name}: {_sentence(error)}") from None
    return None


def _is_here(cluster: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a lone pod on Kubernetes is told to install more
        return cluster.is_env_present()


def _place(cluster: Any, count: int, seconds: int) -> Place:
    from jax._src import cloud_tpu_init

    index, tpu = cluster.get_process_id(), cloud_tpu_init.running_in_cloud_tpu_vm
    try:
        address = cluster.get_coordinator_address(
            timeout_secs=seconds, override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
        )
    except RuntimeError as error:
        if not tpu:
            raise
        raise PeerError(f"process 0 of {count} is not there: {_sentence(error)}") from None
    # JAX gives a process one device; alone on its node it is meant to have all.
    local = None if tpu else cluster.get_local_process_id()
    alone = os.environ.get("SLURM_STEP_NUM_NODES") == str(count)
    devices = None if local is None or alone else [local]
    if given := os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        devices = [int(number) for number in given.split(",")]
    return Place(address, count, index, devices)


def _started() -> tuple[str, int | None]:
    """The variable that says how many processes were started, and how many."""
    for name in _STARTED:
        if name in os.environ:
            return name, int(os.environ[name])
    return "", None


def _refuse_others() -> None:
    """Raises InputError if JAX finds no others, but something says that there are."""
    from jax._src import cloud_tpu_init
    from jax._src.clusters import cloud_tpu_cluster

    _refuse_torchrun(1)
    name, count = _started()
    if name == "SLURM_STEP_NUM_TASKS" and (missing := [v for v in _SLURM if v not in os.environ]):
        names = " and ".join(f"${variable}" for variable in missing)
        raise _unknown(f"${name} is {count}, but JAX does not find {names}, set with it by SLURM")
    if count is not None:
        raise _unknown(f"${name} is {count}, but JAX does not know that launcher")
    if "KUBERNETES_SERVICE_HOST" in os.environ and _INDEX in os.environ:
        raise _unknown(
            f"this is pod {os.environ[_INDEX]} of an Indexed Job of Kubernetes, and the package "
            "that asks for the others is not installed: pip install 'jax[k8s]'"
        )
    if cloud_tpu_init.running_in_cloud_tpu_vm and "TPU_SKIP_MDS_QUERY" not in os.environ:
        _, status = cloud_tpu_cluster.get_metadata("agent-worker-number")
        if status >= 500:  # any other is a TPU that is not of Compute Engine
            raise _unknown(f"Cloud TPU: the metadata server answers {status}")


def _refuse_torchrun(known: int) -> None:
    """Raises InputError if torchrun started several processes and something else not as many.

    As many: a script told each task of SLURM, say, what torchrun would have. Otherwise torchrun is
    the innermost launcher, whose processes all look like the one that started them.
    """
    if not all(name in os.environ for name in _TORCHRUN):
        return
    count = os.environ["WORLD_SIZE"]
    if count.isdecimal() and int(count) not in (1, known):
        raise _unknown(
            f"$WORLD_SIZE is {count}, with $RANK and $MASTER_ADDR as of torchrun, but JAX does not "
            "know that launcher"
        )


def _unknown(reason: str) -> InputError:
    return InputError(
        f"the other processes of this run cannot be found out ({reason}); give --coordinator "
        "HOST:PORT, --processes N and --process I, or --processes 1 to run alone"
    )


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, RuntimeError) and text else f"{type(error).__name__} "
    return f"{kind}{text}"[:300].strip()
