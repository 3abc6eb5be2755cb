"""The type in which gradients of weights leave the products, and devices sum them."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import loss_and_gradients, make_run, make_task

from big_vit_lite import config, models
from big_vit_lite.models.layers.linear import Embedding, product


def test_products_and_their_gradients_are_those_of_jax():
    keys = jax.random.split(jax.random.key(0), 3)
    x, g = (jax.random.normal(key, (2, 5, 16), jnp.bfloat16) for key in keys[:2])
    kernel = jax.random.normal(keys[2], (16, 16))

    def pull(grad_dtype):
        y, back = jax.vjp(lambda x, w: product(x, w, grad_dtype), x, kernel)
        return y, *back(g)

    plain, exact = pull(None), pull("float32")
    assert jnp.array_equal(plain[0], exact[0]) and jnp.array_equal(plain[1], exact[1])
    rows = np.asarray(x, np.float64).reshape(-1, 16)
    wanted = rows.T @ np.asarray(g, np.float64).reshape(-1, 16)
    np.testing.assert_allclose(exact[2], wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(plain[2]) - wanted).max() > 1e-3


def in_bfloat16(x):
    """Share of the numbers that bfloat16 has."""
    return (np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float32) == x).mean()


def reductions(folder):
    """(type, numbers) of each sum over devices, as the partitioner wrote them into the program.

    The program is read as it leaves that pass, which all backends share. What is compiled in the
    end tells nothing here: CPUs have no arithmetic in bfloat16 and widen such sums to float32.
    """
    (file,) = folder.glob("*after_spmd-partitioning*")
    found = re.findall(r"= (\w+)\[([\d,]*)\]\S* (?:all-reduce|reduce-scatter)\(", file.read_text())
    return [(kind, math.prod(int(n) for n in shape.split(",") if n)) for kind, shape in found]


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 1, "fsdp": 8}], ids=["data", "fsdp"])
def test_gradients_are_summed_in_the_type_that_is_asked_for(sizes, tmp_path, monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    model = {"depth": 1, "dtype": "bfloat16", "scan": True}
    losses, grads, sums = {}, {}, {}
    for grad_dtype in ("bfloat16", "float32"):
        run = make_run(model=model, optim={"grad_dtype": grad_dtype})
        dump = {"xla_dump_to": str(tmp_path / grad_dtype), "xla_dump_hlo_pass_re": ".*spmd.*"}
        losses[grad_dtype], grads[grad_dtype] = loss_and_gradients(run, sizes, 8, dump)
        sums[grad_dtype] = reductions(tmp_path / grad_dtype)
    kernels = sorted(x.size for n, x in grads["float32"].items() if n.endswith("kernel"))
    head = grads["float32"]["head/kernel"].size
    assert len(kernels) == 8 and kernels.count(head) == 1
    for grad_dtype, short in (("bfloat16", "bf16"), ("float32", "f32")):
        found = sorted((n, kind) for kind, n in sums[grad_dtype] if n in kernels)
        assert found == [(n, "f32" if n == head else short) for n in kernels], grad_dtype
    for name, exact in grads["float32"].items():
        if name.endswith("kernel") and "head" not in name:
            rounded = grads["bfloat16"][name]
            assert in_bfloat16(rounded) == 1 and in_bfloat16(exact) < 0.05, name
            assert np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max(), name
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=2e-3)


def test_types_that_do_not_fit_are_refused():
    run = make_run(model={"dtype": "float32"}, optim={"grad_dtype": "bfloat16"})
    with pytest.raises(
        config.InputError,
        match="optim.grad_dtype is bfloat16, but products are computed in float32: use float32 or "
        "auto, or set model.dtype=bfloat16.",
    ):
        make_task(run)
    resnet = models.build_model(config.Model(variant="RN50"), (64, 64, 3), 0, "cpu")
    with pytest.raises(config.InputError, match="ResNet has none: leave it auto"):
        models.with_grad_dtype(resnet, "float32")
    with pytest.raises(config.InputError, match="ResNet has none: leave mesh.stage 1"):
        models.in_stages(resnet, 4)


def test_all_transformers_of_a_model_take_it():
    model = models.build_coca(
        config.Model(variant="mu/4"),
        config.Text(variant="mu", pool="cls", pad_id=0),
        config.Joint(features=8),
        config.Decoder(),
        (8, 8, 3),
        6,
        "tpu",
    )
    made = models.with_grad_dtype(model, "float32")
    for part in (made.img, made.txt, made.pool, made.decoder):
        assert part.block.grad_dtype == "float32", type(part).__name__
    assert models.with_grad_dtype(model, "auto") == model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_row_that_all_texts_read_is_summed_in_float32(dtype):
    """In bfloat16 ones stop adding up at 256."""
    table, tokens = Embedding(5, 3, dtype, None), np.array([[0, 1], [0, 2]] * 2048, np.int32)

    def total(params):
        rows = table.apply({"params": params}, tokens)
        assert rows.dtype == dtype
        return rows.astype(np.float32).sum()

    found = jax.jit(jax.grad(total))({"embedding": np.ones((5, 3), np.float32)})["embedding"]
    np.testing.assert_array_equal(found[:, 0], [4096, 2048, 2048, 0, 0])
