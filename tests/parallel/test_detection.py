"""Where a process stands is read from what surrounds it, and what cannot be told is an error.

Environments are made up: variables, and the answers of Google's metadata server and of Kubernetes.
"""

import os
import socket
import sys
import types
import warnings
from types import SimpleNamespace

import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster
from jax._src.clusters import cluster as base
from jax._src.clusters.k8s_cluster import K8sCluster

from big_vit_lite.config import InputError, PeerError
from big_vit_lite.parallel import cluster

TOLD = ("SLURM_", "OMPI_", "PMI_", "KUBERNETES_", "JOB_", "TPU_", "MEGASCALE_", "JAX_COORD",
        "WORLD_SIZE", "RANK", "MASTER_")  # fmt: skip
SLURM = {"JOB_ID": "77", "STEP_NODELIST": "node[07-08]", "NTASKS": "2", "PROCID": "1",
         "LOCALID": "0", "STEP_NUM_NODES": "2", "STEP_NUM_TASKS": "2"}  # fmt: skip
MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
       "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_RANK": "9",
       "OMPI_COMM_WORLD_LOCAL_RANK": "1"}  # fmt: skip
TORCHRUN = {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "node07",
            "MASTER_PORT": "29500"}  # fmt: skip
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "pod"}
GKE = {"TPU_WORKER_HOSTNAMES": "t-0.t,t-1.t", "TPU_WORKER_ID": "1"}
VM = {"agent-worker-number": "2", "worker-network-endpoints": "x:y:10.0.0.1,x:y:10.0.0.2,a:b:c"}
SLICES = "A: 'b'\nMEGASCALE_COORDINATOR_ADDRESS: '10.1.0.1:80'\nMEGASCALE_NUM_SLICES: '2'\n" + (
    "MEGASCALE_SLICE_ID: '1'"
)


@pytest.fixture
def place(monkeypatch):
    """Where a process stands with these variables around it."""
    for name in list(os.environ):
        if name.startswith(TOLD):
            monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # not installed
    monkeypatch.setattr(cluster, "START_SECONDS", 0)

    def find(variables, given=None):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return cluster.find_place(given or {}, {})

    return find


@pytest.fixture
def tpu(monkeypatch):
    """Makes this a machine with TPUs, whose metadata server says this; an Exception: is away."""

    def with_metadata(answers, status=404):
        def get_metadata(key):
            if isinstance(answers, Exception):
                raise answers
            return (answers[key], 200) if key in answers else ("<p>no: such attribute", status)

        for module in (cloud_tpu_init, base, cloud_tpu_cluster):
            monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
        monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", get_metadata)
        monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")
        monkeypatch.setattr(cluster, "START_SECONDS", 1)

    return with_metadata


@pytest.fixture
def kubernetes(monkeypatch):
    """The package, as far as JAX asks it whether there is a service account."""

    def with_account(load):
        package = types.ModuleType("kubernetes")
        package.config = SimpleNamespace(load_incluster_config=load)
        exceptions = SimpleNamespace(ApiException=OSError)
        package.client = SimpleNamespace(CoreV1Api=object, BatchV1Api=object, exceptions=exceptions)
        monkeypatch.setitem(sys.modules, "kubernetes", package)

    return with_account


def slurm(**changes):
    found = SLURM | changes
    return {f"SLURM_{name}": value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({}, None),
        (slurm(), ("node07:61517", 2, 1, None)),
        (slurm(NTASKS="16", STEP_NUM_TASKS="16"), ("node07:61517", 16, 1, [0])),
        (slurm(NTASKS="1", STEP_NUM_TASKS="1"), None),
        (slurm(NTASKS="16", STEP_NUM_TASKS="1"), None),  # the shell of salloc, for 16 tasks
        (slurm(STEP_NODELIST=None, STEP_NUM_TASKS=None), None),  # an sbatch script without srun
        (MPI, ("10.96.0.1:62624", 16, 9, [1])),
        (MPI | slurm(STEP_NUM_TASKS="1"), ("10.96.0.1:62624", 16, 9, [1])),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, None),
        (POD, None),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "4"}, None),  # left over from something else: there is no $RANK
        # A script that tells each task of SLURM what torchrun would have.
        (TORCHRUN | {"WORLD_SIZE": "2"} | slurm(), ("node07:61517", 2, 1, None)),
    ],
)
def test_launchers(place, variables, where):
    assert place(variables) == where


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        *(
            (
                slurm(**{name: None}),
                rf"\$SLURM_STEP_NUM_TASKS is 2, but JAX does not find \$SLURM_{name}, set",
            )
            for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "77", "SLURM_LOCALID": "0"},
            r"\$SLURM_STEP_NUM_TASKS is 4, but JAX does not find \$SLURM_STEP_NODELIST and "
            r"\$SLURM_NTASKS and \$SLURM_PROCID, set with it by SLURM",
        ),
        (TORCHRUN, r"\$WORLD_SIZE is 4, .* torchrun, but JAX does not know that launcher"),
        (TORCHRUN | POD, r"\$WORLD_SIZE is 4, .* torchrun"),
        # Started by a task of SLURM, each process would take that task's place.
        (TORCHRUN | slurm(), r"\$WORLD_SIZE is 4, .* torchrun"),
        (TORCHRUN | slurm(NTASKS="1", STEP_NUM_TASKS="1"), r"\$WORLD_SIZE is 4, .* torchrun"),
        (slurm(NTASKS="2(x2)"), "SLURM: ValueError invalid literal"),
        (MPI | {"OMPI_MCA_orte_hnp_uri": "4096.0;usock"}, "Open MPI: Could not parse coordinator"),
        ({"PMI_SIZE": "2"}, r"\$PMI_SIZE is 2, but JAX does not know that launcher"),
        (POD | {"JOB_COMPLETION_INDEX": "0"}, r"pod 0 of an Indexed Job .* pip install 'jax\[k8s"),
    ],
)
def test_what_cannot_be_found_out_is_an_error_and_not_a_run_of_one(place, variables, reason):
    said = f"the other processes of this run cannot be found out \\(.*{reason}.*\\); give --coord"
    with pytest.raises(InputError, match=said) as caught:
        place(variables)
    text = str(caught.value)
    assert text.endswith("--processes N and --process I, or --processes 1 to run alone")
    assert place(variables, {"processes": 1}) is None
    by_hand = {"coordinator": "a:1", "processes": 2, "process": 0}
    assert place(variables, by_hand) == ("a:1", 2, 0, None)


def test_cloud_tpu(place, tpu):
    tpu(VM)
    assert place({}) == ("10.0.0.1:8482", 3, 2, None)
    tpu(VM | {"tpu-env": SLICES})
    assert place({}) == ("10.1.0.1:8482", 6, 5, None)
    tpu({"agent-worker-number": "0", "worker-network-endpoints": "a:b:10.0.0.1"})
    assert place({}) is None
    tpu({})  # not of Compute Engine
    assert place({}) is None


@pytest.mark.parametrize(
    ("answers", "status", "reason"),
    [
        (ConnectionError("Max retries exceeded"), 0, "ConnectionError Max retries exceeded"),
        (ModuleNotFoundError("No module named 'requests'"), 0, "Error No module named 'requests'"),
        ({"agent-worker-number": "1"}, 404, "Cloud TPU: ValueError unsupported"),
        ({}, 503, "Cloud TPU: the metadata server answers 503"),
    ],
)
def test_a_cloud_tpu_that_cannot_tell_its_hosts_is_an_error(place, tpu, answers, status, reason):
    tpu(answers, status)
    with pytest.raises(InputError, match=f"{reason}.*or --processes 1 to run alone"):
        place({})
    assert place({}, {"processes": 1}) is None


def test_tpus_of_gke(place, tpu, monkeypatch):
    tpu({})
    assert place(GKE) == ("t-0.t:8482", 2, 1, None)
    monkeypatch.delenv("TPU_WORKER_ID")
    with pytest.raises(
        InputError, match=r"\(a TPU slice of GKE: ValueError invalid literal .*None"
    ):
        place({})

    def unknown(name):
        raise socket.gaierror

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    monkeypatch.setattr(cluster, "START_SECONDS", 0)
    with pytest.raises(PeerError, match="process 0 of 2 is not there: Failed to .* address t-0.t"):
        place(GKE)
    # One host alone is not looked up: some notebooks have names there that nobody knows.
    monkeypatch.delenv("TPU_WORKER_ID")
    assert place({"TPU_PROCESS_ADDRESSES": "local"}) is None


def test_pods_that_may_not_ask_kubernetes(place, kubernetes, monkeypatch):
    def refuse():
        raise RuntimeError("Service token file does not exist.")

    kubernetes(refuse)
    assert place(POD) is None
    with monkeypatch.context() as context:
        for name, value in TORCHRUN.items():  # a pod of the training operator's PyTorchJob
            context.setenv(name, value)
        with pytest.raises(InputError, match="WORLD_SIZE is 4, .* torchrun"):
            place(POD)
    with pytest.raises(InputError, match="Kubernetes: Service token file does not exist"):
        place({"JOB_COMPLETION_INDEX": "1"})


def test_jobs_of_kubernetes(place, kubernetes, monkeypatch):
    kubernetes(lambda: None)
    labels = {"jobset.sigs.k8s.io/jobset-name": "set"}
    job = SimpleNamespace(
        metadata=SimpleNamespace(name="set-node-0", labels=labels),
        spec=SimpleNamespace(parallelism=2),
    )
    for name, value in {
        "_job": job,
        "_pod": None,
        "_controller": SimpleNamespace(kind="Job"),
    }.items():
        monkeypatch.setattr(K8sCluster, name, lambda value=value: value)
    with pytest.raises(
        InputError, match="Kubernetes: .*jobs must be indexed by setting `completion"
    ):
        place(POD)
    assert place({"JOB_COMPLETION_INDEX": "1"}) == ("set-node-0-0.set:55527", 2, 1, None)
    job.spec.parallelism = 1
    assert place({}) is None
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    assert place({}) is None
