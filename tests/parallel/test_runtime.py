"""Compiler options of programs that run once."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import lecun_normal
from small import make_optimizer, make_run

from big_vit_lite import parallel
from big_vit_lite.models.layers import inits
from big_vit_lite.parallel import runtime, training

LEVEL = "xla_backend_optimization_level"


def test_less_is_asked_of_the_compiler_on_cpus_unless_flags_say_how_much(monkeypatch):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])  # XLA has read its flags after this
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_parallel_codegen_split_count=1")
    assert runtime.quick_compiler_options(mesh) == {LEVEL: 1}
    gpu = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="gpu")]))
    assert runtime.quick_compiler_options(gpu) == {}
    monkeypatch.setenv("XLA_FLAGS", f"--{LEVEL}=3")
    assert runtime.quick_compiler_options(mesh) == {}


def test_initial_values_keep_every_bit():
    rules = (lecun_normal(), inits.kernel_init("clip", "qkv"), inits.torch_uniform())

    def draw(key):
        return [init(key, (12, 40)) for init in rules]

    lowered = jax.jit(draw).lower(jax.random.key(0))
    quick, thorough = (lowered.compile({LEVEL: level}) for level in (1, 3))
    key = jax.random.key(1)
    jax.tree.map(np.testing.assert_array_equal, quick(key), thorough(key))


class Line:
    """A task of one parameter."""

    def init(self, key):
        return {"w": jax.random.normal(key, (2,))}

    def prepare(self, batch, key):
        return batch

    def loss(self, params, batch, key):
        return jnp.mean(batch["x"] @ params["w"]), {}


@pytest.mark.parametrize("given", [False, True])
def test_a_runs_first_state_is_compiled_so(given, monkeypatch):
    # What XLA does not know is refused by name, once it is asked.
    monkeypatch.setattr(training, "quick_compiler_options", lambda mesh: {"xla_no_such": 1})
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    batch = {"x": jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=parallel.replicated(mesh))}
    params = {"w": jnp.ones(2)}
    optimizer = make_optimizer(make_run(), Line())
    run = parallel.compile_training(Line(), optimizer, mesh, batch, 0)
    with pytest.raises(Exception, match="xla_no_such"):
        run.init(params if given else None)
