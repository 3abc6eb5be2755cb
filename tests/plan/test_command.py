"""`--dry_run`: what it prints, what it writes, what it refuses."""

import json
import os
import subprocess
import sys

import pytest

from big_vit_lite import train
from big_vit_lite.plan import command, topology

TINY = ["--config", "configs/vit_b16.py:tiny", "--config.mesh.data=2", "--config.mesh.fsdp=4"]


def test_the_command_plans_for_this_machine_and_writes_json(tmp_path):
    file = tmp_path / "plan.json"
    words = [*TINY, "--dry_run", "--json", str(file), "--workdir", str(tmp_path / "run")]
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    done = subprocess.run(
        [sys.executable, "-m", "big_vit_lite.train", *words],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 x cpu (data 2, fsdp 4)" in done.stdout
    assert "all of the state" in done.stdout and ": fits" in done.stdout
    assert "all-reduce" in done.stdout and "compute dominates" in done.stdout
    plan = json.loads(file.read_text())
    assert plan["peak_bytes"] == (
        plan["argument_bytes"]
        + plan["output_bytes"]
        - plan["aliased_bytes"]
        + plan["temporary_bytes"]
    )
    assert plan["donated_bytes"] == plan["state_bytes"] > 0
    assert plan["fits"] is True and plan["peak_bytes"] < plan["limit_bytes"]
    assert plan["collectives"]["all-reduce"]["bytes"] > 0
    assert plan["flops"] > 0 and plan["roofline_s"] > 0 and plan["tried"] == []
    assert plan["config"] == "configs/vit_b16.py:tiny" and plan["overrides"]["mesh.fsdp"] == "4"
    assert not (tmp_path / "run").exists()  # nothing is trained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry_run", "--topology", "v5e-17"], '--topology = "v5e-17": is no slice of v5e'),
        (["--dry_run", "--topology", "v5e-32"], "data 2 x fsdp 4 x tensor 1 does not make 32"),
        (["--topology", "v5e-16"], "--topology goes with --dry_run"),
        (["--json", "x.json"], "--json goes with --dry_run"),
        (["--dry_run", "--jason", "x"], "did you mean --json?"),
    ],
)
def test_refusals(words, said, capsys):
    assert train.main([*TINY, *words]) == 2
    assert said in capsys.readouterr().err


def test_without_libtpu_a_topology_is_refused_with_the_command_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    assert train.main([*TINY[:2], "--dry_run", "--topology", "v5e-8"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'jax[tpu]==" in error and error.count("\n") == 1


def test_data_need_not_be_there_and_devices_are_those_of_the_topology(monkeypatch, capsys):
    """Files that are absent and 16 chips that are not here pass the checks."""
    asked = []

    def devices(found):
        asked.append(str(found))
        raise command.config.InputError("so far")

    monkeypatch.setattr(command, "devices", devices)
    words = ["--config", "configs/vit_b16.py:path=/nowhere", "--config.mesh.fsdp=16"]
    words += ["--config.mesh.data=1", "--dry_run", "--topology", "v5litepod-16"]
    assert train.main(words) == 2
    assert asked == ["v5e:4x4"] and capsys.readouterr().err == "so far\n"


def test_a_file_that_cannot_be_written(tmp_path, capsys):
    words = [*TINY, "--dry_run", "--json", str(tmp_path / "no" / "plan.json")]
    assert train.main(words) == 2
    assert "cannot be written: No such file" in capsys.readouterr().err
