"""Batches, heads, tokens and blocks over devices: gradients as on one, memory of a share."""

import jax
import numpy as np
import pytest
from small import (
    batch_spec,
    distance,
    loss_and_gradients,
    make_optimizer,
    make_run,
    make_task,
    random_batch,
    scale,
)

from big_vit_lite import checks, config, models, parallel

MESHES = {
    "data x fsdp x tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp x tensor": {"data": 1, "fsdp": 2, "tensor": 4},
    "data x sequence": {"data": 2, "sequence": 4},
    "fsdp x sequence x tensor": {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2},
    "data x stage 2": {"data": 4, "stage": 2, "microbatches": 2},
    "fsdp x stage 4": {"data": 1, "fsdp": 2, "stage": 4, "microbatches": 4},
    "tensor x sequence x stage": {"data": 1, "tensor": 2, "sequence": 2, "stage": 2},
}
# 17 tokens, which no number of devices divides, and every kind of noise.
MODEL = {"depth": 4, "pool": "cls", "scan": True, "remat": "dots", "stochastic_depth": 0.2,
         "dropout": 0.1, "attention_dropout": 0.1, "layer_scale": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def one_device():
    return loss_and_gradients(make_run(model=MODEL), {}, 1)


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_losses_and_gradients_are_those_of_one_device(sizes, one_device, monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    loss, grads = loss_and_gradients(make_run(model=MODEL), sizes, 8)
    assert loss == pytest.approx(one_device[0], rel=1e-5)
    worst, name = distance(grads, one_device[1])
    assert worst < 1e-5, name
    for name in (name for name in grads if name.endswith("key/bias")):
        assert np.abs(grads[name]).max() < 1e-5 * scale(name, grads)


def abstract_state(run, image_shape=(32, 32, 3), classes=10):
    task = make_task(run, image_shape, classes)
    mesh = parallel.make_mesh(run.mesh)
    return parallel.abstract_state(task, make_optimizer(run, task), mesh)


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 4), (2, 4), (4, 2)])
def test_tensor_splits_the_whole_state_of_b16(fsdp, tensor):
    """Embeddings, blocks and head: only norms and the biases behind a sum stay whole."""
    b16 = {"width": None, "depth": None, "heads": None, "mlp_dim": None, "patch": None}
    run = make_run(model=b16 | {"scan": True, "pool": "cls"}, mesh={"fsdp": fsdp, "tensor": tensor})
    state = abstract_state(run, (224, 224, 3), 1000)
    assert size(state) > 3 * 86_567_656 * 4
    held = parallel.shard_bytes(state)
    assert held < 1.02 * size(state) / (fsdp * tensor)


def test_stages_hold_their_share_of_the_blocks_also_in_the_stored_form(monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    run = make_run(model=MODEL | {"width": 128}, mesh={"data": 2, "stage": 4})
    state = abstract_state(run)
    for tree in (state["params"], state["opt_state"][0].mu):
        blocks = tree["Transformer"]["encoderblock"]
        assert parallel.shard_bytes(blocks) == size(blocks) / 4
    mesh, task = parallel.make_mesh(run.mesh), make_task(run)
    shardings = jax.tree.map(lambda x: x.sharding, state["params"])
    params = jax.jit(task.init, out_shardings=shardings)(jax.random.key(0))
    stored = parallel.relayout(models.unstack_layers, params, mesh)
    assert "encoderblock_3" in stored["Transformer"]
    held = parallel.shard_bytes(stored), parallel.shard_bytes(state["params"])
    assert held[0] < 1.1 * held[1]
    back = parallel.relayout(models.stack_layers, stored, mesh)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, back, params))
    assert jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(back), jax.device_get(params)))


def compiled_step(run, image_shape=(32, 32, 3), count=8):
    mesh = parallel.make_mesh(run.mesh, jax.devices()[:count])
    task = make_task(run, image_shape)
    spec = batch_spec(run, mesh, image_shape)
    training = parallel.compile_training(task, make_optimizer(run, task), mesh, spec, 0)
    return training.compiled


def test_sequence_splits_the_activations_of_a_single_image():
    model = {"depth": 2, "patch": 4, "pool": "cls", "scan": True, "remat": "dots"}  # 401 tokens

    def temporaries(**mesh):
        run = make_run(1, model, mesh={"data": 1, **mesh})
        compiled = compiled_step(run, (80, 80, 3), run.mesh.sequence)
        return compiled.memory_analysis().temp_size_in_bytes

    share = 0.4 if jax.__version_info__ < (0, 11) else 0.6  # JAX 0.12 assigns more: 0.566
    assert temporaries(sequence=4) < share * temporaries(sequence=1)


def test_a_pipeline_moves_tokens_and_no_weights():
    run = make_run(model=MODEL, mesh={"data": 2, "stage": 4, "microbatches": 8})
    text = compiled_step(run).as_text()
    assert "all-gather" not in text and "collective-permute" in text


def test_a_batch_that_does_not_divide_into_parts_goes_through_a_pipeline_in_one():
    run = make_run(model=MODEL | {"depth": 2}, mesh={"data": 4, "stage": 2})
    alone, task = make_task(run.model_copy(update={"mesh": config.Mesh()})), make_task(run)
    mesh = parallel.make_mesh(run.mesh)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = jax.device_get(random_batch(run, mesh, 0))
    for rows in (4, 3):
        part = {key: x[:rows] for key, x in batch.items()}
        expected = jax.jit(alone.predict)(params, part)["logits"]
        with jax.set_mesh(mesh):
            logits = jax.jit(task.predict)(params, part)["logits"]
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_bubble():
    assert models.bubble(1, 4) == 0 and models.bubble(4, 12) == 3 / 15
    assert config.microbatches(config.Mesh(stage=3)) == 12
    assert config.microbatches(config.Mesh(stage=3, microbatches=5)) == 5


def test_what_cannot_be_split_is_refused():
    run = make_run(model=MODEL | {"depth": 3}, mesh={"data": 4, "stage": 2})
    (fault,) = checks.sizes(run)
    assert str(fault) == "mesh.stage = 2: must divide the 3 blocks of model.variant B/16; use 3"
    mesh, images = parallel.make_mesh(run.mesh), np.zeros((4, 32, 32, 3), np.float32)

    def apply(model, **options):
        params = {"params": models.init_params(model, jax.random.key(0))}
        with jax.set_mesh(mesh):
            jax.eval_shape(lambda p: model.apply(p, images, **options), params)

    with pytest.raises(config.InputError, match="stage is 2, and the model has 3 blocks: set"):
        apply(make_task(run).model)
    run = make_run(model=MODEL, mesh={"data": 4, "stage": 2})
    with pytest.raises(config.InputError, match="blocks that are unrolled: set model.scan=true"):
        apply(make_task(run).model.clone(scan=False))
    with pytest.raises(config.InputError, match=r"blocks \(attention\) stay on the stages"):
        apply(make_task(run).model, capture=("attention",))


@pytest.mark.parametrize("causal", [True, False])
def test_text_towers_are_split_too(causal):
    """Their padding masks go with the rows of a pipeline, and with split tokens."""
    section = config.Text(variant="mu", depth=2, vocabulary=50, causal=causal, pad_id=0, scan=True)
    tower = models.build_text(section, 7, 8, "cpu")
    tokens = np.random.default_rng(0).integers(0, 50, (16, 7))
    params = {"params": jax.jit(lambda: models.init_params(tower, jax.random.key(0)))()}
    alone = jax.jit(tower.apply)(params, tokens)[0]
    for sizes in ({"data": 4, "sequence": 2}, {"data": 4, "stage": 2}):
        with jax.set_mesh(parallel.make_mesh(config.Mesh(**sizes))):
            staged = models.in_stages(tower, 4) if "stage" in sizes else tower
            features = jax.jit(staged.apply)(params, tokens)[0]
        np.testing.assert_allclose(features, alone, atol=1e-5)
