"""One run in a directory at a time, and room on the disk before a save begins."""

import collections
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from big_vit_lite.checkpoint import Keeper, folder, keeper
from big_vit_lite.config import InputError, RunError

HOLDER = """
import sys
from big_vit_lite.checkpoint import Keeper
with Keeper(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_by_pid_and_host_until_the_first_is_gone(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        env={"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "open\n"
    with pytest.raises(InputError, match=f"is in use by process {first.pid} on .* since 20") as e:
        Keeper(tmp_path)
    assert str(e.value).endswith("wait for it, stop it, or choose another --workdir")
    first.kill()  # no file is left that would have to be removed by hand
    first.wait()
    with Keeper(tmp_path):
        assert folder.read_owner(tmp_path)["pid"] != first.pid


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(folder.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.fcntl, "lockf", refuse)
    with Keeper(tmp_path):
        assert "lies on a file system without locks" in caplog.text


def test_processes_that_do_not_share_the_directory_are_refused(tmp_path, monkeypatch):
    """What process 1 reads there is nothing, or what an earlier run left."""
    monkeypatch.setattr(keeper, "gather", lambda name, token: [token, None])
    with pytest.raises(InputError, match="process 1 does not see what process 0 wrote to .*share"):
        Keeper(tmp_path)


def test_another_store_is_refused_before_a_folder_called_s3_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="s3:/bucket/run.*: wants a folder of this machine or gs:"):
        Keeper(Path("s3://bucket/run/checkpoints"))
    assert not list(tmp_path.iterdir())


def test_a_save_without_room_is_not_begun(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    with Keeper(tmp_path) as saver:
        saver.save(1, {"params": {"w": jnp.ones((8, 8))}}, {})
        saver.wait()
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**31, 2**30, 3 * 2**20))
        with pytest.raises(RunError) as error:
            saver.save(2, {"params": {"w": jnp.ones((1024, 1024))}}, {})
        assert str(error.value) == (
            f"could not save step 2 to {tmp_path}: the disk is full: it takes 4.0 MiB and 3.0 MiB "
            "are free on that disk; make room and start again (step 1 still stands)"
        )
        assert saver.steps == (1,) and not list(tmp_path.glob("2*"))
