"""Meshes and the layout of parameters on them."""

import jax
import jax.numpy as jnp
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


def test_leaves_are_split_by_path_then_by_shape():
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    block = "params/Transformer/encoderblock_0/"
    attention = block + "MultiHeadDotProductAttention_0/"
    for name, shape, spec in (
        (attention + "query/kernel", (768, 12, 64), P("fsdp", "tensor", None)),
        (attention + "out/kernel", (12, 64, 768), P("tensor", None, "fsdp")),
        (block + "MlpBlock_0/Dense_0/kernel", (768, 3072), P("fsdp", "tensor")),
        (block + "MlpBlock_0/Dense_1/kernel", (3072, 768), P("tensor", "fsdp")),
        (block + "LayerNorm_0/scale", (768,), P(None)),
        ("opt_state/0/mu/head/kernel", (768, 1000), P("fsdp", "tensor")),
        # A scanned stack keeps its depth whole, though 2 divides it.
        ("params/Transformer/encoderblock/MlpBlock_0/Dense_1/bias", (12, 3072), P(None, "fsdp")),
        ("step", (), P()),
    ):
        assert parallel.leaf_spec(name, shape, mesh) == spec, name


def test_constrain_is_a_no_op_without_a_mesh_and_for_batches_that_do_not_divide():
    x = jnp.ones((3, 4))
    assert parallel.constrain(x) is x
    with jax.set_mesh(parallel.make_mesh()):
        assert jax.jit(parallel.constrain)(x).shape == (3, 4)
        y = jax.jit(parallel.constrain)(jnp.ones((16, 4)))
        assert y.sharding.spec[0] == ("data", "fsdp") or y.sharding.spec[0] == "data"
