"""The optimiser's state in the host's memory: the same numbers, less on the device."""

import jax
import numpy as np
import pytest
from small import make_run, train

from big_vit_lite import config, models, parallel
from big_vit_lite.parallel import offload

SMALL = {"depth": 2, "scan": True}
OPTIM = {"ema": 0.9, "clip_norm": 1.0, "skip_nonfinite": 1}


def kinds(tree):
    return {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.shape}


def test_an_offloaded_run_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=4))
    ends = {}
    for offloaded in (False, True):
        run = make_run(model=SMALL, optim=OPTIM | {"offload": offloaded})
        ends[offloaded] = train(run, mesh, 3)
    losses, state, training = ends[True]
    assert losses == ends[False][0]
    assert kinds(state["opt_state"]) == {"pinned_host"}
    assert kinds(state["params"]) == kinds(state["ema"]) == {"device"}
    same = jax.tree.map(np.array_equal, *(jax.device_get(end[1]) for end in ends.values()))
    assert jax.tree.all(same)
    # Parameters and average stay: half of what was there.
    held = [parallel.shard_bytes(ends[offloaded][2].abstract) for offloaded in (True, False)]
    assert held[0] == pytest.approx(held[1] / 2, rel=0.01)
    # Another form for a checkpoint and back, as if the run had been stopped.
    stored = parallel.relayout(models.unstack_layers, state, mesh)
    assert kinds(stored) == {"device"}
    back = parallel.relayout(models.stack_layers, stored, mesh)
    back = jax.device_put(back, jax.tree.map(lambda x: x.sharding, training.abstract))
    assert jax.tree.all(jax.tree.map(np.array_equal, *map(jax.device_get, (back, state))))
    assert kinds(back["opt_state"]) == {"pinned_host"}


def test_devices_that_cannot_are_refused(monkeypatch):
    mesh = parallel.make_mesh()
    monkeypatch.setattr(offload, "HOST", "none_such")
    with pytest.raises(config.InputError, match="optim.offload is true, but cpu with this version"):
        offload.offloaded({}, mesh)
