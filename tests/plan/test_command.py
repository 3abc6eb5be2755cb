"""`--dry_run`: what it prints, what it writes, what it refuses."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from plan.test_make import PLAN

from big_vit_lite import train
from big_vit_lite.plan import command, remedies, topology

TINY = ["--config", "configs/vit_b16.py:tiny", "--config.mesh.data=2", "--config.mesh.fsdp=4"]


REFUSED = dataclasses.replace(PLAN, compiled=False, settings={"remat": "none"})


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


def test_what_is_known_is_written_before_the_next_trial(tmp_path, monkeypatch, capsys):
    """A trial that takes more memory than the machine has ends the process."""
    file, seen = tmp_path / "plan.json", []

    def make(run, mesh, topology=None):
        if file.exists():
            seen.append([trial["changes"] for trial in json.loads(file.read_text())["tried"]])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return dataclasses.replace(REFUSED, settings={"remat": run.model.remat})

    for module in (command, remedies):
        monkeypatch.setattr(module, "make", make)
    with pytest.raises(KeyboardInterrupt):
        train.main([*TINY, "--dry_run", "--json", str(file), "--config.model.remat=none"])
    first, second = {"model.remat": "dots"}, {"model.remat": "full"}
    assert seen == [[], [first], [first, second]]
    assert json.loads(file.read_text())["peak_bytes"] == PLAN.peak_bytes


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("no/plan.json", "No such file or directory"),
        ("file/plan.json", "Not a directory"),
        ("folder", "Is a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_compiling(
    tmp_path, monkeypatch, capsys, file, reason
):
    monkeypatch.setattr(command, "make", lambda *_: pytest.fail("it began to compile"))
    monkeypatch.setattr(command, "_own_devices", lambda run: pytest.fail("devices were asked for"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert train.main([*TINY, "--dry_run", "--json", str(tmp_path / file)]) == 2
    said = capsys.readouterr().err
    assert said == f"--json {tmp_path / file} cannot be written: {reason}\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_the_check_of_a_file_leaves_what_is_there(tmp_path, monkeypatch):
    def make(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "make", make)
    file = tmp_path / "plan.json"
    file.write_text("of before")
    with pytest.raises(KeyboardInterrupt):
        train.main([*TINY, "--dry_run", "--json", str(file)])
    assert file.read_text() == "of before" and list(tmp_path.iterdir()) == [file]
