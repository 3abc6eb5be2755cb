"""Initial parameters are deferred, and drawn together then, as each module's own `init` would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, models
from big_vit_lite.models.layers.blocks import Block
from big_vit_lite.models.layers.param import deferred_init
from big_vit_lite.weights import Sections


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


SIZES = {"width": 8, "depth": 2, "heads": 2, "mlp_dim": 16, "scan": True}
VIT = {"variant": "mu/4", "image_size": 8, "classes": 5, **SIZES}
TEXT = {"vocabulary": 7, "length": 4, "end_id": 6, **SIZES}
EVERY_KIND = {
    "vit": {"model": VIT},
    "unrolled": {"model": VIT | {"scan": False, "pool": "map", "layer_scale": 0.1}},
    "hybrid": {
        "model": VIT
        | {"variant": "R50+mu/16", "stages": (2, 1), "stem_width": 32, "patch": 1}
        | {"image_size": 32}
    },
    "naflex": {"model": VIT | {"max_patches": 9, "pool": "map", "position_resample": "bilinear"}},
    "resnet": {
        "model": {"variant": "RN50", "stages": (1, 1, 1, 1), "width": 4, "heads": 2}
        | {"image_size": 32, "classes": 5}
    },
    "mae": {"model": VIT, "reconstruction": {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}},
    "clip": {"model": VIT, "text": TEXT, "joint": {"features": 6}},
    "coca": {
        "model": VIT,
        "text": TEXT | {"pool": "cls"},
        "joint": {"features": 6},
        "decoder": {"queries": 3, "pool_heads": 2},
    },
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_shapes_are_those_of_what_is_drawn(kind):
    types = {
        "model": config.Model,
        "text": config.Text,
        "joint": config.Joint,
        "decoder": config.Decoder,
        "reconstruction": config.Reconstruction,
    }
    sections = {name: types[name](**fields) for name, fields in EVERY_KIND[kind].items()}
    model = Sections(**sections).build("cpu")
    drawn = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    assert models.abstract_params(model) == drawn
    assert sum(x.size for x in jax.tree.leaves(drawn)) > 1000


def test_parameters_are_deferred_within_and_nowhere_else():
    clip = models.Clip(img=None, txt=None, logit_scale=10.0, logit_bias=-1.0)
    with deferred_init() as deferred:
        jax.eval_shape(lambda: clip.init({}))
    assert {path: param.shape for path, param in deferred.items()} == {("t",): (1,), ("b",): (1,)}
    assert len({param.fold for param in deferred.values()}) == 2
    assert clip.init(jax.random.key(0))["params"]["t"] == np.float32(np.log(10.0))
