"""Runs that write to gs://: what a local run gives, and nothing lost when they are cut off."""

import importlib.util
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
import pytest
import several

from big_vit_lite import checkpoint, evaluate, report, storage
from big_vit_lite.checkpoint import Keeper, arrays, lease, reading
from big_vit_lite.config import InputError, RunError
from big_vit_lite.train import main

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed (extra: gcs)"
)
QUICKSTART = str(several.ROOT / "configs" / "quickstart.py:tiny")


@pytest.fixture(autouse=True)
def nothing_is_refused(store):
    yield
    store.refuse = lambda method, name: None


def options(workdir, steps, *more):
    return ["--config", QUICKSTART, "--workdir", str(workdir), f"--config.steps={steps}",
            "--config.report.every=1", "--config.checkpoint.every=2", "--config.evals.val.every=2",
            "--config.optim.ema=0.9", "--config.model.depth=1", "--config.optim.warmup=0",
            "--config.optim.schedule=constant", *more]  # fmt: skip


def rows(text):
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(("speed/", "memory/"))}
        for line in text.splitlines()
    ]


def stored(workdir):
    directory = checkpoint.find(workdir)
    wanted = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in checkpoint.read_meta(directory)["arrays"].items()
    }
    return {name: np.asarray(x).tobytes() for name, x in arrays.load(directory, wanted).items()}


def names(store, folder):
    return sorted(name.removeprefix(f"{folder}/") for name in store.objects if folder in name)


def steps(store, run):
    return reading.committed(checkpoint.find(f"gs://bucket/{run}").parent)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Six steps that nobody interrupts, on the disk."""
    workdir = tmp_path_factory.mktemp("local")
    assert main(options(workdir, 6)) == 0
    return workdir


@pytest.fixture(scope="module")
def run(store, local, drawn):
    """The same run, killed in the upload of step 4 by the first byte of its arrays to arrive, and
    then brought to its end; with what stood in between."""
    workdir = "gs://bucket/run"

    def kill(method, name):
        if method == "POST" and name.startswith("run/checkpoints/4/state/ocdbt"):
            process.kill()
            return 503
        return None

    files = local / "killed"
    (process,) = several.start("big_vit_lite.train", 1, 8, files, *options(workdir, 6))
    store.refuse = kill
    assert several.wait([process]) == [-signal.SIGKILL], several.output(files, 0)
    store.refuse = lambda method, name: None
    last = json.loads(store.objects["run/metrics.jsonl"][1].splitlines()[-1])["step"]
    killed = Killed(names(store, "run"), steps(store, "run"), last)
    assert main(options(workdir, 6)) == 0
    return workdir, killed


class Killed(NamedTuple):
    """A run's folder after the kill."""

    names: list[str]
    steps: list[int]
    last_row: int


def test_a_run_killed_in_an_upload_resumes_and_ends_bitwise_as_a_local_one(store, run, local):
    run, killed = run
    assert any(name.startswith("checkpoints/4/") for name in killed.names)
    assert "checkpoints/4/manifest.json" not in killed.names and killed.steps == [2]
    assert killed.last_row in (2, 4)  # never behind the checkpoint that counts
    # On this machine a process that is gone is known to be: nothing is waited for.
    assert "checkpoints/.owner" in killed.names
    assert stored(run) == stored(local)
    ours = store.objects["run/metrics.jsonl"][1].decode()
    assert rows(ours) == rows((local / "metrics.jsonl").read_text()) and len(rows(ours)) == 6
    assert steps(store, "run") == [4, 6]
    held = names(store, "run")
    assert {"config.json", "curve.png"} < set(held) and "checkpoints/.owner" not in held
    events = [name for name in held if name.startswith("tensorboard/events.out.tfevents")]
    assert len(events) == 2 and all(len(store.objects[f"run/{name}"][1]) > 500 for name in events)
    assert store.objects["run/curve.png"][1].startswith(b"\x89PNG")
    assert report.read_rows(f"{run}/metrics.jsonl")[-1]["step"] == 6


def test_it_is_evaluated_and_started_from_like_a_local_one(store, run, local, tmp_path, capfd):
    run, _ = run

    def numbers(where, *more):
        assert evaluate.main([*options(tmp_path, 6, "--checkpoint", str(where))[2:], "--config",
                              QUICKSTART, *more]) == 0  # fmt: skip
        return capfd.readouterr().out

    predictions = ("--predictions", "gs://bucket/predictions")
    assert numbers(run, *predictions) == numbers(local)
    lines = store.objects["predictions/val-6.jsonl"][1].splitlines()
    assert len(lines) == 359 and json.loads(lines[0])["best"]
    assert main(options(tmp_path / "new", 1, f"--config.init={run}", "--config.evals={}")) == 0
    assert f"started from {run}: " in capfd.readouterr().err
    with pytest.raises(InputError, match="gs://bucket/none does not exist; give a run's --workdir"):
        checkpoint.find("gs://bucket/none")


def test_a_flipped_byte_is_found_and_the_older_checkpoint_named(store, run, capfd):
    run, _ = run
    name = max((n for n in store.objects if n.startswith("run/checkpoints/6/state/")),
               key=lambda n: len(store.objects[n][1]))  # fmt: skip
    whole = store.objects[name][1]
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    store.write(name, data)
    try:
        assert main(options(run, 6)) == 2
    finally:
        store.write(name, whole)
    said = capfd.readouterr().err
    assert f"the file {name.removeprefix('run/checkpoints/6/')} has changed since it was" in said
    assert "gs://bucket/run/checkpoints/4 is whole: remove" in said and "Traceback" not in said


def test_a_store_that_refuses_the_commit_leaves_the_checkpoint_before(store, capfd):
    refused = "refused/checkpoints/4/manifest.json"
    store.refuse = lambda method, name: 403 if name == refused else None
    assert main(options("gs://bucket/refused", 6, "--config.evals={}")) == 1
    said = capfd.readouterr().err
    assert "could not save step 4 to gs://bucket/refused/checkpoints: " in said
    assert "(step 2 still stands)" in said and "Traceback" not in said
    assert steps(store, "refused") == [2] and not names(store, "refused/checkpoints/4")
    store.refuse = lambda method, name: 403 if name.startswith("closed/") else None
    assert main(options("gs://bucket/closed", 6)) == 2
    assert "cannot write checkpoints to gs://bucket/closed/checkpoints: " in capfd.readouterr().err


def note(store, run):
    return json.loads(store.objects[f"{run}/checkpoints/.owner"][1])


def test_a_second_run_is_refused_while_the_first_moves_its_note(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "PATIENCE_S", 20.0)
    with Keeper("gs://bucket/held/checkpoints"):
        said = note(store, "held")
        with pytest.raises(InputError, match=f"is in use by process {said['pid']} on .* since 20"):
            Keeper("gs://bucket/held/checkpoints")
    assert not names(store, "held")


def test_a_note_that_stands_still_is_taken_over_and_its_holder_writes_no_more(store, monkeypatch):
    monkeypatch.setattr(lease, "PATIENCE_S", 0.3)  # BEAT_S is 10: the first one stands still
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    first = Keeper("gs://bucket/lost/checkpoints")
    first._lock._ended.set()
    with Keeper("gs://bucket/lost/checkpoints") as second:
        state = {"params": {"w": np.ones(4, np.float32)}}
        with pytest.raises(RunError, match="was taken over by process .*; this run writes no more"):
            first.save(1, state, {"config": "{}"})
        second.save(1, state, {"config": "{}"})
        assert not first._lock._beat()  # a note that is another's is not rewritten
        first.close()
        assert note(store, "lost")["token"] == second._lock.token
    assert steps(store, "lost") == [1] and not names(store, "lost/checkpoints/.owner")


def test_a_save_that_ends_in_another_runs_folder_does_not_count(store, monkeypatch):
    """The folder is taken over while the arrays are on their way."""
    directory = storage.place("gs://bucket/late/checkpoints")
    with Keeper(directory) as keeper:
        finish = keeper._finish

        def take_over():
            (directory / ".owner").write_bytes(json.dumps({"token": "another"}).encode())
            (directory / "1" / "theirs").write_bytes(b"1")

        monkeypatch.setattr(keeper, "_finish", lambda *a: (take_over(), finish(*a)))
        keeper.save(1, {"params": {"w": np.ones(4, np.float32)}}, {"config": "{}"})
        with pytest.raises(RunError, match="was taken over by .*; this run writes no more"):
            keeper.wait()
    assert reading.committed(directory) == [] and "1/theirs" in names(store, "late/checkpoints")


def test_of_runs_that_take_a_folder_at_once_one_has_it(store, monkeypatch):
    """A note is dead; a second run takes it over between the first one's look and its own note."""
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    path = storage.place("gs://bucket/both/.owner")
    path.write_bytes(json.dumps(lease.own_place() | {"pid": 2**22 + 1, "token": "dead"}).encode())
    read, others = lease.Lease._read, []

    def read_and_lose(self):
        found = read(self)
        if not others:
            others.append(None)
            others[0] = lease.Lease(path)
        return found

    monkeypatch.setattr(lease.Lease, "_read", read_and_lose)
    with pytest.raises(InputError, match="is in use by process"):
        lease.Lease(path)
    others[0].check()
    others[0].close()
    # And of many that begin at once.
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(lease.Lease, path) for _ in range(4)]
        failed = [future for future in futures if future.exception() is not None]
    assert len(failed) == 3 and all(isinstance(f.exception(), InputError) for f in failed)
    (won,) = [future.result() for future in futures if future not in failed]
    won.check()
    won.close()
    assert path.generation() == 0


def test_dead_is_who_was_on_this_machine_and_is_gone():
    here = lease.own_place()
    assert not lease.died_here(here)
    gone = here | {"pid": 2**22 + 1}
    assert lease.died_here(gone)
    assert not lease.died_here(gone | {"machine": "another"})
    assert not lease.died_here({k: v for k, v in gone.items() if k != "machine"})
