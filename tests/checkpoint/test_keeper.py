"""Saving, what stays, round trips to the bit, and errors of the background save."""

import errno
import json
import logging
import resource
import threading
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint.states import abstract, assert_same, make_state, spread

from big_vit_lite.checkpoint import Keeper, folder, keeper, manifest, meta, tree
from big_vit_lite.config import InputError, RunError

META = {"config": '{"seed": 0}', "seed": 0, "examples": 64, "wall_s": 1.5}


def small(step: int) -> dict:
    return {"step": jnp.int32(step), "params": {"w": jnp.full((4, 4), step, jnp.float32)}}


def save_all(keeper: Keeper, steps, metrics=None) -> None:
    for i, step in enumerate(steps):
        keeper.save(step, small(step), META, metrics and {"val/top1": metrics[i]})
    keeper.wait()


@pytest.mark.parametrize(("saved_on", "read_on"), [(8, 8), (8, 1), (1, 8), (4, 2)])
def test_round_trip_is_bitwise_on_any_mesh(tmp_path, saved_on, read_on):
    state = spread(make_state(3), saved_on)
    with Keeper(tmp_path / "checkpoints") as keeper:
        keeper.save(3, state, META)
        wanted = abstract(spread(make_state(0), read_on))
        read, _ = keeper.restore(wanted)
    assert_same(read, state)
    for got, want in zip(jax.tree.leaves(read), jax.tree.leaves(wanted), strict=True):
        assert got.sharding == want.sharding


def test_meta_travels_with_the_arrays(tmp_path):
    with Keeper(tmp_path) as keeper:
        keeper.save(3, small(3), META, {"val/top1": 0.5, "val/loss": float("nan")})
        _, stored = keeper.restore(abstract(small(0)))
    assert {k: stored[k] for k in META} == META
    assert stored["step"] == 3
    assert stored["metrics"] == {"val/top1": 0.5, "val/loss": None}
    assert stored["versions"]["jax"] == jax.__version__
    assert stored["arrays"] == {"params/w": ["float32", [4, 4]], "step": ["int32", []]}
    assert json.loads((tmp_path / "3" / meta.NAME).read_text()) == stored


@pytest.mark.parametrize("devices", [1, 8])
def test_donated_state_is_saved_as_it_was(tmp_path, devices):
    """Donating steps run from when save returns, while 64 MB are on their way to the disk."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: -x - 5, s), donate_argnums=0)
    state = spread({"params": {"w": jnp.arange(2**24, dtype=jnp.float32)}}, devices)
    control = jax.tree.map(jnp.copy, state)
    new = jax.block_until_ready(step(control))
    assert control["params"]["w"].is_deleted()  # or this test would show nothing
    with Keeper(tmp_path) as keeper:
        keeper.save(1, state, META)
        new = step(state)
        while keeper.latest is None:
            new = jax.block_until_ready(step(new))
        read, _ = keeper.restore(abstract(new))
    np.testing.assert_array_equal(read["params"]["w"], np.arange(2**24, dtype=np.float32))


def test_saving_returns_before_the_disk_is_done_and_a_second_save_waits(tmp_path, monkeypatch):
    commit = manifest.commit
    monkeypatch.setattr(manifest, "commit", lambda d: (time.sleep(0.5), commit(d)))
    with Keeper(tmp_path) as keeper:
        keeper.save(1, small(1), META)
        assert keeper.latest is None
        keeper.save(2, small(2), META)
        assert keeper.steps == (1,)
    assert keeper.steps == (1, 2)


def test_latest_kept_every_and_best_stay(tmp_path):
    with Keeper(tmp_path, keep=2, keep_every=40, keep_best="val/top1") as keeper:
        save_all(keeper, range(10, 101, 10), [1, 2, 3, 9, 9, 4, 9, 5, 6, 1])
        assert keeper.steps == (40, 80, 90, 100)
        assert keeper.best == 40  # 50 and 70 are as good, but later
    with Keeper(tmp_path, keep=1, keep_best="val/top1", best_mode="min") as keeper:
        assert keeper.best == 100
        keeper.restore(abstract(small(0)))
        save_all(keeper, [110, 120], [5, 7])
        assert keeper.steps == (100, 120)


def test_best_survives_a_metric_that_is_nan_or_not_there(tmp_path, caplog):
    with Keeper(tmp_path, keep=1, keep_best="val/top1") as keeper:
        save_all(keeper, [1, 2, 3], [0.5, float("nan"), 0.4])
        with caplog.at_level(logging.WARNING):
            keeper.save(4, small(4), META, {"val/top_1": 0.9})
        keeper.save(5, small(5), META)
        keeper.wait()
        assert keeper.steps == (1, 5)
    assert "no metric val/top1 to be the best by; there is val/top_1" in caplog.text


def test_older_ones_go_only_when_the_new_one_stands(tmp_path, monkeypatch):
    with Keeper(tmp_path, keep=1) as keeper:
        keeper.save(1, small(1), META)
        keeper.wait()
        monkeypatch.setattr(manifest, "commit", lambda d: time.sleep(0.2) or _fail())
        keeper.save(2, small(2), META)
        with pytest.raises(RunError):
            keeper.wait()
        assert keeper.steps == (1,)
        assert [path.name for path in tmp_path.glob("[!.]*")] == ["1"]


def _fail():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_told_at_the_next_call_and_at_close(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "commit", lambda d: _fail())
    keeper = Keeper(tmp_path)
    keeper.save(1, small(1), META)
    message = (
        rf"could not save step 1 to {tmp_path}: the disk is full; make room and start again "
        r"\(no checkpoint stands\)"
    )
    with pytest.raises(RunError, match=message):
        keeper.save(2, small(2), META)
    keeper.save(3, small(3), META)
    with pytest.raises(RunError, match="could not save step 3"):  # before anything else is saved
        for _ in range(1000):
            keeper.poll()
            time.sleep(0.01)
    keeper.save(4, small(4), META)
    with pytest.raises(RunError, match="could not save step 4"):
        keeper.close()


def test_arrays_that_cannot_be_written_are_one_sentence(tmp_path, caplog):
    """Orbax itself fails, at a limit on the size of files; it would log a traceback as well."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = {"params": {"w": jnp.asarray(np.random.default_rng(0).random(2**18))}}
    with Keeper(tmp_path) as keeper:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, limits[1]))
        try:
            keeper.save(1, state, META)
            with pytest.raises(
                RunError, match="could not save step 1 to .*File too large"
            ) as error:
                keeper.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(error.value)
        assert list(tmp_path.glob("[!.]*")) == []
        keeper.save(2, state, META)
    assert keeper.latest == 2
    assert [record.message for record in caplog.records if record.exc_info] == []


def test_error_of_the_run_is_not_hidden_by_the_error_of_a_save(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "commit", lambda d: _fail())
    with pytest.raises(ZeroDivisionError) as caught, Keeper(tmp_path) as keeper:
        keeper.save(1, small(1), META)
        raise ZeroDivisionError
    assert "could not save step 1" in caught.value.__notes__[0]


def test_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"cannot write checkpoints to {tmp_path}/file/x"):
        Keeper(tmp_path / "file" / "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_state_is_not_saved_and_evicts_nothing(tmp_path, value):
    bad = {"step": jnp.int32(2), "params": {"v": jnp.zeros(3), "w": jnp.array([0.0, value])}}
    with Keeper(tmp_path, keep=1) as keeper:
        keeper.save(1, {**small(1), "opt_state": (jnp.float32(value),)}, META)
        with pytest.raises(RunError, match="step 2 is not saved: NaN or inf in params/w"):
            keeper.save(2, bad, META)
        assert keeper.steps == (1,)


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    save_with = Keeper(tmp_path)
    save_all(save_with, [1, 2])
    save_with.close()
    manifest.revoke(tmp_path / "2")
    (tmp_path / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "7.txt").write_text("mine")
    with Keeper(tmp_path) as keeper:
        assert keeper.steps == (1,)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["1", "7.txt", "notes"]


def test_step_that_stands_is_not_written_again(tmp_path):
    with Keeper(tmp_path) as keeper:
        save_all(keeper, [1])
        before = (tmp_path / "1" / manifest.NAME).stat().st_mtime_ns
        save_all(keeper, [1])
    assert (tmp_path / "1" / manifest.NAME).stat().st_mtime_ns == before


def test_going_on_from_an_older_step_replaces_what_came_after(tmp_path, monkeypatch):
    with Keeper(tmp_path, keep=3) as keeper:
        save_all(keeper, [10, 20, 30])
    with Keeper(tmp_path, keep=1) as keeper:
        keeper.restore(abstract(small(0)), step=10)
        assert keeper.steps == (10, 20, 30)  # nothing goes before something new stands
        remove, removed = folder.remove, []
        monkeypatch.setattr(folder, "remove", lambda c: (removed.append(c.name), remove(c)))
        keeper.save(20, {"step": jnp.int32(20), "params": {"w": jnp.ones((4, 4))}}, META)
        read, _ = keeper.restore(abstract(small(0)))
        assert keeper.steps == (20,)
    assert removed == ["30", "10"]  # killed in between, the run must not go on from 30
    np.testing.assert_array_equal(read["params"]["w"], np.ones((4, 4)))


def test_what_was_found_later_is_of_that_checkpoint_and_no_other(tmp_path):
    with Keeper(tmp_path, keep=9, keep_best="val/top1") as keeper:
        save_all(keeper, [10, 20], [0.5, 0.4])
        keeper.judge(20, {"val/top1": 0.9, "val/loss": float("inf")})
        assert keeper.best == 20
    with Keeper(tmp_path, keep=9, keep_best="val/top1") as keeper:
        keeper.restore(abstract(small(0)), step=10)
        save_all(keeper, [20], [0.3])
        assert keeper.best == 10


class Killed(BaseException):
    """Stands for `kill -9` at the call that raises it."""


@pytest.mark.parametrize(
    ("call", "stands"),
    [
        ("big_vit_lite.checkpoint.manifest.revoke", [10, 20, 30]),
        ("big_vit_lite.checkpoint.folder.discard", [10, 30]),
        ("big_vit_lite.checkpoint.arrays.start_saving", [10, 30]),
        ("big_vit_lite.checkpoint.manifest.commit", [10, 30]),
        ("big_vit_lite.checkpoint.folder.remove", [10, 20, 30]),
    ],
)
def test_what_a_run_goes_on_from_stands_until_something_new_does(
    tmp_path, monkeypatch, call, stands
):
    """Killed at each call of a save that takes the place of an old checkpoint."""
    with Keeper(tmp_path, keep=3) as keeper:
        save_all(keeper, [10, 20, 30])

    def kill(*_):
        raise Killed

    keeper = Keeper(tmp_path, keep=1)
    keeper.restore(abstract(small(0)), step=10)
    with monkeypatch.context() as patch:
        patch.setattr(call, kill)
        with pytest.raises(Killed):
            keeper.save(20, small(21), META)
            keeper.wait()
    assert list(keeper.steps) == stands
    keeper._running = None
    keeper.close()
    for step in stands:
        manifest.verify(tmp_path / str(step))


def test_an_older_checkpoint_makes_way_only_where_there_is_room(tmp_path, monkeypatch):
    with Keeper(tmp_path, keep=3) as keeper:
        save_all(keeper, [10, 20])
    usage, free = folder.shutil.disk_usage, [10]
    monkeypatch.setattr(
        folder.shutil, "disk_usage", lambda _: usage(tmp_path)._replace(free=free[0])
    )
    with Keeper(tmp_path, keep=3) as keeper:
        keeper.restore(abstract(small(0)), step=10)
        large = {"step": jnp.int32(20), "params": {"w": jnp.zeros((64, 1024))}}
        with pytest.raises(RunError, match="is full: it takes .*step 20 still stands"):
            keeper.save(20, large, META)
        assert keeper.steps == (10, 20)
        free[0] = 2**18  # with what the old one held
        keeper.save(20, large, META)


def test_checkpoints_of_another_run_are_not_touched(tmp_path):
    with Keeper(tmp_path) as keeper:
        save_all(keeper, [10])
    with Keeper(tmp_path, keep=1) as keeper:
        with pytest.raises(RunError, match=r"holds checkpoints of another run \(step 10\)"):
            keeper.save(5, small(5), META)
        assert keeper.steps == (10,)


def test_restoring_what_is_not_there(tmp_path):
    with Keeper(tmp_path) as keeper:
        with pytest.raises(InputError, match="holds no checkpoint; there is none"):
            keeper.restore(abstract(small(0)))
        save_all(keeper, [10, 20])
        with pytest.raises(InputError, match="no checkpoint of step 15; there are 10, 20"):
            keeper.restore(abstract(small(0)), step=15)


def test_state_with_a_python_number_is_refused_by_name(tmp_path):
    with Keeper(tmp_path) as keeper, pytest.raises(TypeError, match="opt_state/0 is no array"):
        keeper.save(1, {"opt_state": (3,)}, META)


def test_many_sharded_leaves_are_looked_through_without_collectives(tmp_path):
    """Hundreds of small reductions over 8 devices at once once locked up the process."""
    state = {"params": {f"w{i}": jnp.full((8, 4), i, jnp.float32) for i in range(300)}}
    state = spread(state, 8)
    assert not any("all-reduce" in text for text in _programs(state["params"]["w1"]))
    with Keeper(tmp_path) as keeper:
        keeper.save(1, state, META)
        bad = state["params"]["w299"].at[7, 3].set(jnp.nan)
        with pytest.raises(RunError, match="step 2 is not saved: NaN or inf in params/w299"):
            keeper.save(2, {"params": {**state["params"], "w299": bad}}, META)


def _programs(leaf):
    return [tree._all_finite.lower(part).compile().as_text() for part in tree._parts(leaf)]


def test_a_failure_of_all_processes_does_not_wait_for_a_save_that_cannot_end(tmp_path, monkeypatch):
    """Without the process that died it ends only when that one's heartbeat is missed."""
    monkeypatch.setattr(keeper, "several", lambda: True)
    monkeypatch.setattr(keeper, "SHARED_SECONDS", 0.1)
    never, late = futures.Future(), threading.Timer(5, lambda: never.set_result(None))
    late.start()
    began = time.monotonic()
    with pytest.raises(jax.errors.JaxRuntimeError), Keeper(tmp_path) as kept:
        kept._running = (1, never)
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo: Connection closed by peer")
    assert time.monotonic() - began < 2
    late.cancel()
    Keeper(tmp_path).close()  # and the folder is free
