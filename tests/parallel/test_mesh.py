"""Meshes and the layout of parameters on them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from big_vit_lite import config, parallel


def test_one_size_takes_what_is_left():
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=-1))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_sizes_that_do_not_make_the_devices_are_refused():
    with pytest.raises(
        config.InputError, match="data=3 x fsdp=2 x tensor=1 does not make 8 devices"
    ):
        parallel.make_mesh(config.Mesh(data=3, fsdp=2))
    with pytest.raises(config.InputError, match="product is 8"):
        parallel.make_mesh(config.Mesh(data=-1, fsdp=3))


def test_only_data_spans_slices():
    devices = [SimpleNamespace(slice_index=i // 4) for i in range(8)]
    with pytest.raises(config.InputError, match="data=1 does not divide by the 2 slices.*data=2"):
        parallel.make_mesh(config.Mesh(data=1, fsdp=-1), devices)


def test_gathered_weights_are_whole_along_fsdp_and_the_same_numbers(monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    mesh = parallel.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    kernel, scale = jnp.arange(512.0).reshape(16, 32) / 7, jnp.arange(16.0)
    params = {"MlpBlock_0": {"Dense_0": {"kernel": kernel}}, "LayerNorm_0": {"scale": scale}}
    assert not parallel.weights_are_split()
    with jax.set_mesh(mesh):
        assert parallel.weights_are_split()
        gather = jax.jit(lambda p: parallel.gather_weights(p, jnp.bfloat16, depth=3))
        whole = gather(params)
    found = whole["MlpBlock_0"]["Dense_0"]["kernel"]
    assert found.sharding.spec == P(None, "tensor") and found.dtype == jnp.bfloat16
    assert (found == kernel.astype(jnp.bfloat16)).all()
    assert whole["LayerNorm_0"]["scale"].dtype == jnp.float32  # norms stay in float32


def test_leaves_are_split_by_path_then_by_shape():
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    block = "params/Transformer/encoderblock_0/"
    attention = block + "MultiHeadDotProductAttention_0/"
    for name, shape, spec in (
        (attention + "query/kernel", (768, 12, 64), P("fsdp", "tensor", None)),
        (attention + "out/kernel", (12, 64, 768), P("tensor", None, "fsdp")),
        (block + "MlpBlock_0/Dense_0/kernel", (768, 3072), P("fsdp", "tensor")),
        (block + "MlpBlock_0/Gate_0/kernel", (768, 3072), P("fsdp", "tensor")),
        (block + "MlpBlock_0/Dense_1/kernel", (3072, 768), P("tensor", "fsdp")),
        (block + "LayerNorm_0/scale", (768,), P(None)),
        ("opt_state/0/mu/head/kernel", (768, 1000), P("fsdp", "tensor")),
        # A scanned stack keeps its depth whole, though 2 divides it.
        ("params/Transformer/encoderblock/MlpBlock_0/Dense_1/bias", (12, 3072), P(None, "fsdp")),
        ("step", (), P()),
        # Embeddings by their features, the head by its classes, else by its inputs.
        ("params/embedding/kernel", (16, 16, 3, 768), P("fsdp", None, None, "tensor")),
        ("params/pos_embedding", (1, 197, 768), P(None, None, "tensor")),
        ("params/head/kernel", (768, 1001), P("tensor", None)),
    ):
        assert parallel.leaf_spec(name, shape, mesh) == spec, name


def test_a_scanned_stack_is_split_by_depth_and_its_stored_form_by_shape():
    mesh = parallel.make_mesh(config.Mesh(data=1, fsdp=2, stage=4))
    assert dict(mesh.shape) == {"stage": 4, "data": 1, "fsdp": 2, "tensor": 1}
    kernel, moments = "encoderblock/MlpBlock_0/Dense_0/kernel", "opt_state/0/mu/Transformer/"
    assert parallel.leaf_spec(moments + kernel, (12, 64, 256), mesh) == P("stage", None, "fsdp")
    stored = moments + kernel.replace("/", "_3/", 1)
    assert parallel.leaf_spec(stored, (64, 256), mesh) == P("stage", "fsdp")
    assert parallel.leaf_spec("params/head/kernel", (512, 512), mesh) == P("fsdp", None)


class Chip:
    """As much of a TPU device as making a mesh asks for: eight chips in each slice."""

    platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

    def __init__(self, number):
        self.id, self.slice_index = number, number // 8
        self.coords, self.core_on_chip = (number % 2, number % 8 // 2, 0), 0

    def __repr__(self):
        return f"chip {self.id}"


@pytest.mark.parametrize(
    ("sizes", "axis"),
    [
        (config.Mesh(data=4, fsdp=4), "data"),
        (config.Mesh(data=2, fsdp=2, tensor=4), "data"),
        (config.Mesh(data=1, fsdp=8, stage=2), "stage"),
        (config.Mesh(data=2, fsdp=4, stage=2), "data"),
    ],
)
def test_of_several_slices_one_axis_spans_them(sizes, axis):
    mesh = parallel.make_mesh(sizes, [Chip(i) for i in range(16)])
    slices = [[chip.slice_index for chip in line] for line in lines_along(mesh, axis)]
    assert all(line == sorted(line) and set(line) == {0, 1} for line in slices)
    for other in set(mesh.shape) - {axis}:
        for line in lines_along(mesh, other):
            assert len({chip.slice_index for chip in line}) == 1, other


def lines_along(mesh, axis):
    position = mesh.axis_names.index(axis)
    return np.moveaxis(mesh.devices, position, -1).reshape(-1, mesh.shape[axis])


def test_slices_that_no_axis_spans_are_refused():
    with pytest.raises(config.InputError, match="data=1 does not divide by the 2 slices.*data=2"):
        parallel.make_mesh(config.Mesh(data=1, fsdp=16), [Chip(i) for i in range(16)])


def test_constrain_is_a_no_op_without_a_mesh_and_for_batches_that_do_not_divide():
    x = jnp.ones((3, 4))
    assert parallel.constrain(x) is x
    with jax.set_mesh(parallel.make_mesh()):
        assert jax.jit(parallel.constrain)(x).shape == (3, 4)
        y = jax.jit(parallel.constrain)(jnp.ones((16, 4)))
        assert y.sharding.spec[0] == ("data", "fsdp") or y.sharding.spec[0] == "data"
