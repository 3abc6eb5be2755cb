"""config.init = a file of published weights: leaf by leaf, resized, or refused."""

import re

import jax
import numpy as np
import pairs
import pytest
import small
from weights import parity

from big_vit_lite import assembly, config, parallel, starting, weights
from big_vit_lite.config import InputError
from big_vit_lite.models.layers.positions import resample, resample_matrix
from big_vit_lite.weights import agreement, hub
from big_vit_lite.weights.resizing import patch_resize, resize_patches

VIT = {"variant": "mu/4", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 64, "patch": 4,
       "pool": "cls", "activation": "erf", "norm_eps": 1e-12}  # fmt: skip


@pytest.fixture
def vit_folder(tmp_path):
    return parity.unpack(parity.golden("L09-vit"), tmp_path)


def parts_for(path, rules=(), side=(16, 16), classes=7, **model):
    run = small.make_run(model=VIT | model, init=str(path), init_rules=rules)
    task = small.make_task(run, (*side, 3), classes)
    mesh = parallel.make_mesh(config.Mesh(fsdp=2, data=1), jax.devices()[:2])
    return assembly.Parts(run, mesh, None, 10, task.model, task, [])


def started(parts):
    starting.check_init(parts.run)
    abstract = jax.eval_shape(parts.task.init, jax.random.key(0))
    rng = np.random.default_rng(0)  # initial values need no compiled step here
    drawn = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), abstract)
    parts.task.init = lambda key: drawn
    start = starting.init_params(parts, parallel.with_shardings(abstract, parts.mesh))
    return start.params, start.told, drawn


def test_all_of_the_same_model(vit_folder):
    params, told, _ = started(parts_for(vit_folder))
    jax.tree.map(np.testing.assert_array_equal, params, parity.loaded("L09-vit").params)
    count = len(jax.tree.leaves(params))
    whose = f"started from {vit_folder}: transformers-vit, pixels normalised as theirs; "
    assert told == f"{whose}{count} arrays of the checkpoint"


def test_scanned_layers_another_head_and_resampled_positions(vit_folder):
    rules = (("^head/", "skip"),)
    parts = parts_for(vit_folder, rules, (8, 32), 3, scan=True, position_resample="cubic_torch")
    params, told, fresh = started(parts)
    loaded = parity.loaded("L09-vit").params
    blocks = loaded["Transformer"]["encoderblock_1"]
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[1], y),
        params["Transformer"]["encoderblock"], blocks,
    )  # fmt: skip
    np.testing.assert_array_equal(params["head"]["kernel"], fresh["head"]["kernel"])
    table = loaded["pos_embedding"][0]
    np.testing.assert_array_equal(params["pos_embedding"][0, :1], table[:1])
    wanted = resample(table[1:], (4, 4), (2, 8), "cubic_torch")
    np.testing.assert_allclose(params["pos_embedding"][0, 1:], wanted, rtol=1e-6, atol=1e-7)
    assert "initial values: head/bias, head/kernel; left out: head/bias, head/kernel" in told
    assert "pos_embedding resized from (1, 17, 32) to (1, 17, 32)" in told  # 4 x 4 and 2 x 8


def test_what_is_left_out_is_drawn_as_in_a_run_from_scratch(vit_folder):
    rules = (("^embedding/", "skip"), ("block_1/MlpBlock_0/Dense_0/kernel", "skip"))
    parts = parts_for(vit_folder, rules, scan=True)
    abstract = jax.eval_shape(parts.task.init, jax.random.key(0))
    params = starting.init_params(parts, parallel.with_shardings(abstract, parts.mesh)).params
    drawn = jax.jit(parts.task.init)(jax.random.key(parts.run.seed))
    np.testing.assert_array_equal(params["embedding"]["kernel"], drawn["embedding"]["kernel"])
    kernel, fresh = (
        x["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]["kernel"] for x in (params, drawn)
    )
    loaded = parity.loaded("L09-vit").params["Transformer"]["encoderblock_0"]
    np.testing.assert_array_equal(kernel[1], fresh[1])
    np.testing.assert_array_equal(kernel[0], loaded["MlpBlock_0"]["Dense_0"]["kernel"])


def test_all_of_it_is_taken_without_drawing_anything(vit_folder):
    parts = parts_for(vit_folder)
    abstract = jax.eval_shape(parts.task.init, jax.random.key(0))

    def draw(key):
        raise AssertionError("something is drawn")

    parts.task.init = draw
    params = starting.init_params(parts, parallel.with_shardings(abstract, parts.mesh)).params
    jax.tree.map(np.testing.assert_array_equal, params, parity.loaded("L09-vit").params)


def test_the_encoder_of_a_masked_autoencoder(tmp_path):
    path = parity.unpack(parity.golden("L21-pretraining"), tmp_path)
    params, told, fresh = started(parts_for(path, (("^head/", "skip"),)))
    wanted = parity.loaded("L21-pretraining").params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, params, wanted | {"head": fresh["head"]})
    assert "transformers-mae" in told and "decoder" not in told


def test_patches_of_another_size(vit_folder):
    params, told, _ = started(parts_for(vit_folder, patch=6, side=(24, 24)))
    kernel = parity.loaded("L09-vit").params["embedding"]["kernel"]
    np.testing.assert_allclose(
        params["embedding"]["kernel"], resize_patches(kernel, (6, 6)), rtol=1e-5, atol=1e-6
    )
    assert "embedding/kernel resized from (4, 4, 3, 32) to (6, 6, 3, 32)" in told


def test_a_tower_of_a_pair_in_an_npz(tmp_path):
    loaded = parity.loaded("L03-siglip")
    file = weights.save(tmp_path / "siglip.npz", loaded.params, loaded.sections, "big-vision-pair")
    rules = (("^img/(.*)", r"\1"), ("^(txt/|[tb]$)", "skip"), ("^head/", "skip"))
    model = {"activation": "tanh", "norm_eps": 1e-6, "pool": "map"}
    params, told, _ = started(parts_for(file, rules, **model))
    ours = {k: x for k, x in params.items() if k != "head"}
    jax.tree.map(np.testing.assert_array_equal, ours, loaded.params["img"])
    assert "big-vision-pair, pixels normalised as theirs; " in told


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"activation": "tanh"}, "model.activation is tanh and theirs erf. Set these"),
        ({"norm_eps": 1e-6}, "model.norm_eps is 1e-06 and theirs 1e-12. Set these"),
        ({"layer_scale": 1.0}, "model.layer_scale is 1.0 and theirs None. Set these"),
        ({"pre_norm": True}, "model.pre_norm is true and theirs false. Set these"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(vit_folder, model, told):
    with pytest.raises(InputError, match=re.escape(told)):
        starting.check_init(parts_for(vit_folder, **model).run)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"positions": "sincos2d"}, "model.positions is sincos2d and theirs learned"),
        ({"depth": 3}, "model.depth is 3 and theirs 2"),
        ({"registers": 2}, "model.registers is 2 and theirs 0"),
    ],
)
def test_a_model_of_other_parameters_is_refused_by_the_field(vit_folder, model, told):
    """Without a step compiled; where all fits, nothing is said."""
    with pytest.raises(InputError, match="does not fit this run") as error:
        starting.check_init_fits(parts_for(vit_folder, **model))
    assert str(error.value).splitlines()[-1] == f"  of the config: {told}"
    starting.check_init_fits(parts_for(vit_folder))


def test_fields_that_shape_parameters_are_fields():
    for section, names in agreement.SHAPES.items():
        schema = getattr(config, section.capitalize()).model_fields
        assert set(names) <= schema.keys()


CLIP_TEXT = {"activation": "quick", "norm_eps": 1e-5, "end_id": 39, "vocabulary": 40, "length": 17}
CLIP_IMAGE = {"activation": "quick", "norm_eps": 1e-5, "pre_norm": True, "patch_bias": False}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ({"activation": "erf"}, "another model: text.activation is erf and theirs quick. Set"),
        ({"norm_eps": 1e-6}, "text.norm_eps is 1e-06 and theirs 1e-05"),
        ({"causal": False}, "text.causal is false and theirs true"),
        ({"pool": "last"}, "text.pool is last and theirs end"),
        ({"end_id": 38}, "text.end_id is 38 and theirs None"),
        ({"pad_id": 0}, "text.pad_id is 0 and theirs None"),
    ],
)
def test_a_text_tower_that_computes_something_else_is_refused(text, told, tmp_path):
    parity.unpack(parity.golden("L11-clip"), tmp_path)
    wrong = pairs.make_run(model=CLIP_IMAGE, text=CLIP_TEXT | text, init=str(tmp_path))
    with pytest.raises(InputError, match=re.escape(told)):
        starting.check_init(wrong)
    starting.check_init(wrong.model_copy(update={"init_rules": (("^txt/", "skip"),)}))
    starting.check_init(wrong.model_copy(update={"text": config.Text(**CLIP_TEXT)}))


def test_a_tower_that_is_left_out_may_compute_otherwise(tmp_path):
    parity.unpack(parity.golden("L11-clip"), tmp_path)
    run = pairs.make_run(text=CLIP_TEXT, init=str(tmp_path), init_rules=(("^img/", "skip"),))
    starting.check_init(run)
    with pytest.raises(InputError, match=r"model.activation is tanh and theirs quick"):
        starting.check_init(run.model_copy(update={"init_rules": (("^img/head", "skip"),)}))


def test_each_array_has_its_line(vit_folder):
    parts = parts_for(vit_folder, (("^head/", "skip"),), (8, 32), 3)
    abstract = assembly.stored_form(parts, assembly.abstract_params(parts))
    found, _ = starting.read_init(parts, abstract)
    lines = found.by_leaf().splitlines()
    names = {parallel.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)}
    assert {line.split(": ")[0] for line in lines[:-2]} == names and len(lines) == len(names) + 2
    shapes = "(1, 17, 32) to (1, 17, 32)"
    assert f"pos_embedding: from pos_embedding, resized from {shapes}" in lines
    assert "cls: from cls" in lines and "head/bias: initial values" in lines
    assert lines[-2:] == ["(left out) head/bias", "(left out) head/kernel"]


def test_weights_are_found_by_any_name_that_load_takes(vit_folder, monkeypatch):
    """A folder whose file has another name than usual, and a name on the hub."""
    (vit_folder / "model.safetensors").rename(vit_folder / "best.safetensors")
    assert "transformers-vit" in started(parts_for(vit_folder))[1]
    monkeypatch.setattr(hub, "fetch", {"google/vit-base-patch16-224": vit_folder}.__getitem__)
    params, told, _ = started(parts_for("google/vit-base-patch16-224"))
    assert told.startswith("started from google/vit-base-patch16-224: transformers-vit, pixels")
    jax.tree.map(np.testing.assert_array_equal, params, parity.loaded("L09-vit").params)


def test_what_a_file_does_not_say_is_told_by_the_config(tmp_path):
    path = parity.unpack(parity.golden("L06-clip"), tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    run = parts_for(path).run
    with pytest.raises(InputError, match=r"set init_known='activation=\.\.\.'"):
        starting.check_init(run)
    with pytest.raises(InputError, match="init_known = 'quick': wants NAME=VALUE with commas"):
        starting.check_init(run.model_copy(update={"init_known": "quick"}))
    known = run.model_copy(update={"init_known": "activation=quick", "init_layout": "nonsense"})
    with pytest.raises(InputError, match="nonsense"):
        starting.check_init(known)


def test_other_pixels_are_told(vit_folder):
    parts = parts_for(vit_folder)
    data = parts.run.data.model_copy(update={"mean": (0.4,), "std": (0.2,)})
    parts = parts._replace(run=parts.run.model_copy(update={"data": data}))
    assert "whose pixels had data.mean=(0.5, 0.5, 0.5) and data.std=(" in started(parts)[1]


def test_what_fits_nowhere_is_listed_and_what_is_not_there_is_told(vit_folder, tmp_path):
    with pytest.raises(InputError) as error:
        started(parts_for(vit_folder, classes=3))
    text = str(error.value)
    assert "head/kernel: is float32[32,7] there and float32[32,3] here" in text
    assert '("^head/", "skip")' in text
    for name in ("nothing.npz", "nothing.safetensors"):
        with pytest.raises(InputError, match=f"{name} does not exist"):
            starting.check_init(parts_for(tmp_path / name).run)
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        (tmp_path / "empty").mkdir()
        starting.check_init(parts_for(tmp_path / "empty").run)


@pytest.mark.parametrize("patch", [(6, 6), (5, 8), (4, 4)])
def test_larger_patches_compute_the_same_of_enlarged_images(patch):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 4, 2, 3)).astype(np.float32)
    pixels = rng.standard_normal((4, 4, 2)).astype(np.float32)
    rows, columns = (resample_matrix(4, n, "cubic") for n in patch)
    enlarged = np.einsum("im,jn,mnc->ijc", rows, columns, pixels)
    found = np.einsum("ijc,ijcd->d", enlarged, resize_patches(kernel, patch))
    wanted = np.einsum("ijc,ijcd->d", pixels, kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    naive = np.einsum("im,jn,mncd->ijcd", rows, columns, kernel)
    if patch != (4, 4):
        assert np.abs(np.einsum("ijc,ijcd->d", enlarged, naive) - wanted).max() > 0.1


def test_only_patch_kernels_of_the_same_features_are_resized():
    assert patch_resize("head/kernel", (4, 4, 3, 8), (2, 2, 3, 8)) is None
    assert patch_resize("embedding/kernel", (4, 4, 3, 8), (2, 2, 1, 8)) is None
    assert patch_resize("img/embedding/kernel", (4, 4, 3, 8), (2, 2, 3, 8)) is not None


@pytest.mark.extra
@pytest.mark.parametrize("patch", [[6, 6], [2, 2], [3, 5]])
def test_patches_are_resized_as_timm_does(patch):
    torch = pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    layers = pytest.importorskip("timm.layers")
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 8)).astype(np.float32)
    theirs = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    theirs = layers.resample_patch_embed(theirs, patch).numpy().transpose(2, 3, 1, 0)
    ours = np.asarray(resize_patches(kernel, tuple(patch)))
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
