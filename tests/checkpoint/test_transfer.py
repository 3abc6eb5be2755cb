"""Starting from another model's checkpoint: renamed, resized, left out, and all misfits told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from checkpoint.states import abstract, spread

from big_vit_lite.checkpoint import Keeper, transfer_params
from big_vit_lite.config import InputError
from big_vit_lite.models import build_model
from big_vit_lite.models.layers.positions import resample
from big_vit_lite.starting import resize_positions


def stored_params():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    blocks = {f"encoderblock_{i}": {"kernel": draw(8, 8)} for i in range(3)}
    return {
        "img": {"Transformer": blocks, "pos_embedding": draw(1, 17, 8)},
        "txt": {"kernel": draw(8, 8)},
        "head": {"kernel": draw(8, 10), "bias": draw(10)},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with Keeper(workdir / "checkpoints") as keeper:
        state = {"step": jnp.int32(3), "params": stored_params()}
        keeper.save(3, spread(state, 8), {"config": "{}"})
    return workdir


def model(classes=10, rows=17):
    params = stored_params()["img"]
    params["pos_embedding"] = jnp.zeros((1, rows, 8))
    params["head"] = {"kernel": jnp.zeros((8, classes)), "bias": jnp.zeros(classes)}
    return abstract(spread(params, 2))


TOWER = (("^txt/", "skip"), ("^img/(.*)", r"\1"))


def test_parts_are_renamed_left_out_and_resized(saved):
    def resize(name, old, new, meta):
        assert (name, old, new, meta["step"]) == ("pos_embedding", (1, 17, 8), (1, 5, 8), 3)
        return lambda table: table[:, ::4]

    rules = (("^head/", "skip"), *TOWER)
    found = transfer_params(saved, model(classes=4, rows=5), rules, resize)
    assert found.fresh == ["head/bias", "head/kernel"]
    assert sorted(found.unused) == ["head/bias", "head/kernel", "txt/kernel"]
    kernels = {f"Transformer/encoderblock_{i}/kernel" for i in range(3)}
    assert found.leaves.keys() == {*kernels, "pos_embedding"}
    theirs = stored_params()["img"]
    for i in range(3):
        ours = found.leaves[f"Transformer/encoderblock_{i}/kernel"]
        np.testing.assert_array_equal(ours, theirs["Transformer"][f"encoderblock_{i}"]["kernel"])
        assert len(ours.sharding.device_set) == 2
    np.testing.assert_array_equal(found.leaves["pos_embedding"], theirs["pos_embedding"][:, ::4])
    told = found.describe()
    assert "4 arrays of the checkpoint; initial values: head/bias, head/kernel; left out: " in told
    assert "pos_embedding resized from (1, 17, 8) to (1, 5, 8)" in told


def test_every_misfit_is_listed_both_ways_and_a_head_is_never_left_out_by_itself(saved):
    with pytest.raises(InputError) as error:
        transfer_params(saved, model(classes=4, rows=5), (("^img/(.*)", r"\1"),))
    text = str(error.value)
    for line in (
        "  only in the checkpoint (1):\n    txt/kernel: float32[8,8]",
        "  of another shape or dtype (3):",
        "    head/kernel: is float32[8,10] there and float32[8,4] here",
        "    pos_embedding: is float32[1,17,8] there and float32[1,5,8] here",
        '  init_rules can rename parts of the checkpoint, as in ("^img/(.*)", "\\\\1"), and leave',
    ):
        assert line in text
    with pytest.raises(InputError) as error:
        transfer_params(saved, model(), (("^txt/", "skip"),))
    assert (
        "Transformer/encoderblock_{0,1,2}/kernel: float32[8,8] (there is "
        "img/Transformer/encoderblock_{0,1,2}/kernel)" in str(error.value)
    )


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ((*TOWER, ("^heads/", "skip")), 'init_rules: "^heads/" is found in no name of checkpoint'),
        (
            (("encoderblock_.", "encoderblock_0"), *TOWER),
            "encoderblock_0/kernel and img/Transformer/encoderblock_1/kernel would both be",
        ),
    ],
)
def test_rules_that_fit_nothing_or_collide_are_refused(saved, rules, text):
    with pytest.raises(InputError, match="init_rules") as error:
        transfer_params(saved, model(), rules)
    assert text in str(error.value)


def test_without_rules_all_of_the_same_model_is_there(saved):
    wanted = abstract(spread(stored_params(), 8))
    found = transfer_params(saved, wanted)
    assert not found.fresh and not found.unused and not found.resized
    assert len(found.leaves) == len(jax.tree.leaves(wanted))


@pytest.mark.parametrize("stored_class_row", [False, True])
def test_position_tables_are_resampled_by_the_models_own_rule(stored_class_row):
    run = small.make_run(model={"pool": "gap", "position_resample": "bilinear"})
    vit = build_model(run.model, (16, 32, 3), 10, "cpu")  # 2 x 4 patches
    rows = vit.position_grid[0] * vit.position_grid[1]
    table = np.random.default_rng(0).standard_normal((1, 16 + stored_class_row, 32), np.float32)
    arguments = (vit, "pos_embedding", table.shape, (1, rows, 32))
    change = resize_positions(*arguments, {})  # the rows make a square of 4 x 4
    wanted = resample(jnp.asarray(table[0, int(stored_class_row) :]), (4, 4), (2, 4), "bilinear")
    np.testing.assert_array_equal(change(jnp.asarray(table))[0], wanted)
    other = resize_positions(*arguments, {"position_grid": [2, 8]})  # it says so
    wanted = resample(jnp.asarray(table[0, int(stored_class_row) :]), (2, 8), (2, 4), "bilinear")
    np.testing.assert_array_equal(other(jnp.asarray(table))[0], wanted)
    assert resize_positions(vit, "head/kernel", (32, 5), (32, 10), {}) is None
    assert resize_positions(vit, "pos_embedding", (1, 16, 8), (1, rows, 32), {}) is None
