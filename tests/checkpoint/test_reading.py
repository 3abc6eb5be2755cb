"""Damage and misfits found at load, and reading the parameters alone."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint.states import abstract, assert_same, biggest_file, make_state, spread

from big_vit_lite import parallel, train
from big_vit_lite.checkpoint import Keeper, find, latest, load_params, manifest, read_meta
from big_vit_lite.config import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with Keeper(workdir / "checkpoints") as keeper:
        for step in (1, 2):
            keeper.save(step, spread(make_state(step), 8), {"config": "{}"})
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def restore(workdir, state=None, step=None):
    with Keeper(workdir / "checkpoints") as keeper:
        return keeper.restore(abstract(spread(state or make_state(), 2)), step)[0]


def files_of(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_a_flipped_bit_in_any_file_is_found_and_the_older_one_named(saved, workdir):
    """Also in manifest.json itself, unless the flip leaves the same JSON (white space)."""
    directory = workdir / "checkpoints" / "2"
    for name in files_of(saved / "checkpoints" / "2"):
        path = directory / name
        content = path.read_bytes()
        if not content:
            continue
        middle = len(content) // 2
        if name == manifest.NAME:
            middle = content.index(b'"sha256": "') + 15
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(InputError) as error:
            restore(workdir)
        message = str(error.value)
        assert f"checkpoint {directory} is damaged: " in message, name
        assert name in message or name == manifest.NAME, name
        assert f"{directory.parent}/1 is whole: remove {directory} to go on from step 1" in message
        assert "\n" not in message
        path.write_bytes(content)
    assert_same(restore(workdir), make_state(2))


@pytest.fixture
def unread(monkeypatch):
    """Hashing the files of checkpoint 2 fails the test, as what is cheap is asked first."""
    read = manifest._sha256

    def sha256(path):
        assert "checkpoints/2" not in str(path)
        return read(path)

    monkeypatch.setattr(manifest, "_sha256", sha256)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "bytes instead of [0-9]+"),
        (lambda path: (path.parent / "stray").write_text("x"), "stray does not belong to it"),
    ],
)
def test_missing_truncated_and_stray_files_are_found_without_reading_any(
    workdir, unread, damage, text
):
    directory = workdir / "checkpoints"
    assert latest(directory) == 2
    damage(biggest_file(directory / "2"))
    said = f"{text}; {directory}/1 is whole: remove {directory}/2 to go on from step 1$"
    with pytest.raises(InputError, match=said) as at_once:
        latest(directory)
    with pytest.raises(InputError, match=said) as at_load:
        restore(workdir)
    assert str(at_once.value) == str(at_load.value)


def test_the_latest_of_none_is_none_and_a_flipped_byte_is_left_to_the_load(workdir, tmp_path):
    assert latest(tmp_path / "nowhere") is None
    path = biggest_file(workdir / "checkpoints" / "2")
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert latest(workdir / "checkpoints") == 2


def test_damage_ends_the_command_before_it_compiles(workdir, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "compile_training", lambda *_: pytest.fail("it compiles"))
    (workdir / "checkpoints" / "2" / "meta.json").unlink()
    assert train.main(["--config", "configs/quickstart.py:tiny", "--workdir", str(workdir)]) == 2
    directory = workdir / "checkpoints"
    assert capsys.readouterr().err == (
        f"checkpoint {directory}/2 is damaged: the file meta.json is missing; {directory}/1 is "
        f"whole: remove {directory}/2 to go on from step 1\n"
    )


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "it has no meta.json"),
        (lambda path: path.write_text("{"), "meta.json cannot be read"),
    ],
)
def test_a_damaged_meta_names_the_older_checkpoint_too(workdir, damage, text):
    directory = workdir / "checkpoints"
    damage(directory / "2" / "meta.json")
    with pytest.raises(InputError) as error:
        read_meta(workdir)
    assert str(error.value) == (
        f"checkpoint {directory}/2 is damaged: {text}; {directory}/1 is whole: remove "
        f"{directory}/2 to go on from step 1"
    )


def test_a_meta_of_another_format_is_no_damage(workdir):
    """Nothing is to be removed then: another version of the program reads it."""
    (workdir / "checkpoints" / "2" / "meta.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="is of another format than 1, .* this version reads$"):
        read_meta(workdir)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {"a": 1}}'])
def test_broken_manifest_is_one_sentence(workdir, content):
    (workdir / "checkpoints" / "2" / manifest.NAME).write_text(content)
    said = r"2 is damaged: manifest.json cannot be read; .*1 is who"
    with pytest.raises(InputError, match=said):
        latest(workdir / "checkpoints")
    with pytest.raises(InputError, match=said):
        restore(workdir)


def test_only_sound_older_checkpoints_are_recommended(workdir):
    for step in ("1", "2"):
        biggest_file(workdir / "checkpoints" / step).unlink()
    with pytest.raises(InputError, match="no older checkpoint to go on from: the run has to"):
        restore(workdir)


def test_an_older_step_can_be_asked_for(workdir):
    assert_same(restore(workdir, step=1), make_state(1))


def test_misfit_is_listed_both_ways_with_nearest_names(workdir):
    other = make_state(depth=3)
    other["params"]["heads"] = other["params"].pop("head")
    other["params"]["Transformer"]["encoderblock_0"]["Dense_0"]["bias"] = jnp.zeros(5)
    other["rng"] = other["rng"].astype(jnp.int32)
    other["ema"] = None
    with pytest.raises(InputError) as error:
        restore(workdir, other)
    lines = str(error.value).splitlines()
    assert "checkpoints/2 does not fit this run" in lines[0]
    for line in (
        "  not in the checkpoint (9):",
        "    params/heads/kernel: float32[16,8] (there is params/head/kernel)",
        "    params/Transformer/encoderblock_2/Dense_0/kernel: float32[16,64]",
        "  only in the checkpoint (8):",
        "    params/head/bias: float32[8] (there is params/heads/bias)",
        "    ema/Transformer/encoderblock_{0,1}/Dense_0/kernel: float32[16,64]",
        "  of another shape or dtype (2):",
        "    params/Transformer/encoderblock_0/Dense_0/bias: is float32[16] there and float32[5] "
        "here",
        "    rng: is uint32[2] there and int32[2] here",
    ):
        assert line in lines, "\n".join(lines)


def test_every_layer_that_differs_is_counted_but_takes_one_line(workdir):
    with pytest.raises(InputError) as error:
        restore(workdir, make_state(width=8))
    assert (
        "params/Transformer/encoderblock_{0,1}/Dense_0/kernel: is float32[16,64] there and "
        "float32[8,32] here" in str(error.value)
    )


def test_find_takes_workdir_checkpoints_and_step(workdir):
    steps = workdir / "checkpoints"
    assert find(workdir) == find(steps) == find(steps / "2") == steps / "2"
    assert find(str(steps / "1")) == steps / "1"
    assert read_meta(workdir)["step"] == 2


def test_relative_paths_are_read(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    params, _ = load_params(workdir.name, abstract(make_state()["params"]))
    assert_same(params, make_state(2)["params"])


def test_find_says_what_is_not_there(tmp_path, workdir):
    with pytest.raises(InputError, match="nowhere does not exist"):
        find(tmp_path / "nowhere")
    manifest.revoke(workdir / "checkpoints" / "2")
    assert find(workdir).name == "1"  # an unfinished one is no checkpoint
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        find(workdir / "checkpoints" / "2")
    assert (workdir / "checkpoints" / "2").is_dir()  # reading removes nothing


@pytest.mark.parametrize("which", ["params", "ema"])
@pytest.mark.parametrize("devices", [1, 8])
def test_params_alone(workdir, which, devices):
    wanted = abstract(spread(make_state()["params"], devices))
    params, stored = load_params(workdir, wanted, which)
    assert_same(params, make_state(2)[which])
    assert stored["step"] == 2
    assert [x.sharding for x in jax.tree.leaves(params)] == [
        x.sharding for x in jax.tree.leaves(wanted)
    ]


def test_params_without_shardings_go_to_one_device(workdir):
    wanted = jax.eval_shape(lambda: make_state()["params"])
    params, _ = load_params(workdir, wanted)
    assert_same(params, make_state(2)["params"])
    assert params["head"]["kernel"].devices() == {jax.devices()[0]}


def test_params_alone_are_verified_and_compared(workdir):
    wanted = abstract(make_state(width=8)["params"])
    with pytest.raises(InputError, match=r"\(params\) does not fit"):
        load_params(workdir, wanted)
    biggest_file(workdir / "checkpoints" / "2").write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        load_params(workdir, abstract(make_state()["params"]))


def test_no_average_to_load(tmp_path):
    state = {"params": {"w": jnp.ones(3)}}
    with Keeper(tmp_path) as keeper:
        keeper.save(1, state, {})
    with pytest.raises(InputError, match="holds no ema .its run kept none: optim.ema was not set"):
        load_params(tmp_path, abstract(state["params"]), "ema")
    np.testing.assert_array_equal(
        load_params(tmp_path, abstract(state["params"]))[0]["w"], np.ones(3)
    )
