"""Initial parameters are deferred, and drawn together then, as each module's own `init` would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, models
from big_vit_lite.models.layers.blocks import Block
from big_vit_lite.models.layers.param import deferred_init


def assert_bitwise(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("fields", [{}, {"pool": "map", "pre_logits": 6, "registers": 1}])
def test_layers_and_all_else_are_drawn_as_flax_draws_them(fields):
    sizes = {"variant": "mu/4", "width": 8, "depth": 2, "heads": 2, "mlp_dim": 16, "scan": True}
    model = models.build_model(config.Model(**sizes | fields), (8, 8, 3), 5, "cpu")

    @jax.jit
    def both(key):
        rest_key, layers_key = jax.random.split(key)
        shell = model.clone(depth=0, scan=False)
        wanted = shell.init(rest_key, model.example())["params"]
        layers = [
            Block(model.block).init(jax.random.fold_in(layers_key, i), jnp.zeros((1, 1, 8)))
            for i in range(2)
        ]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *layers)["params"]
        wanted.setdefault("Transformer", {})["encoderblock"] = stacked
        return models.init_params(model, key), wanted

    assert_bitwise(*both(jax.random.key(3)))


def test_nested_modules_that_are_computed_twice_are_drawn_as_flax_draws_them():
    fields = {"variant": "RN50", "stages": (1, 1, 1, 1), "width": 2, "heads": 2, "remat": "full"}
    model = models.build_model(config.Model(**fields), (32, 32, 3), 4, "cpu")
    both = jax.jit(lambda k: (models.init_params(model, k), model.init(k, model.example())))
    found, wanted = both(jax.random.key(4))
    assert_bitwise(found, wanted["params"])


def test_the_model_itself_is_no_part_of_the_program_that_draws():
    model = models.build_model(config.Model(variant="B/16"), (224, 224, 3), 10, "cpu")
    program = jax.make_jaxpr(lambda k: models.init_params(model, k))(jax.random.key(0))
    assert "dot_general" not in str(program) and "erf_inv" in str(program)


def test_parameters_are_deferred_within_and_nowhere_else():
    clip = models.Clip(img=None, txt=None, logit_scale=10.0, logit_bias=-1.0)
    with deferred_init() as deferred:
        jax.eval_shape(lambda: clip.init({}))
    assert {path: param.shape for path, param in deferred.items()} == {("t",): (1,), ("b",): (1,)}
    assert len({param.fold for param in deferred.values()}) == 2
    assert clip.init(jax.random.key(0))["params"]["t"] == np.float32(np.log(10.0))
