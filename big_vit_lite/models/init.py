"""Initial parameters: drawn by (key, layer), the same for scanned and unrolled layers."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Key

from big_vit_lite.models.clip import Clip
from big_vit_lite.models.coca import Coca, DecoderBlock
from big_vit_lite.models.layers.blocks import Block
from big_vit_lite.models.layers.param import Deferred, deferred_init
from big_vit_lite.models.mae import MAE
from big_vit_lite.models.resnet import ResNet
from big_vit_lite.models.stacking import STACKED, unstack_layers

# What a key is for; the numbers are part of every run's result and never change.
IMAGE, TEXT, DECODER = 0, 1, 2


def init_params(model, key: Key[Array, ""]) -> dict[str, Any]:
    """Initial parameters as a plain nested dict, float32, by the model's own rules.

    Bitwise the same for a scanned and an unrolled model: the layers are drawn by one function,
    mapped over keys fold_in(key, layer), and everything else by a model of depth 0.
    """
    # Compiled here also when nobody else does: outside jit, fused and unfused arithmetic differ in
    # the last bit.
    return _init_params(model, key)


@functools.partial(jax.jit, static_argnums=0)
def _init_params(model, key: Key[Array, ""]) -> dict[str, Any]:
    if isinstance(model, Coca):
        return _init_clip(model, key) | _init_decoder(model, jax.random.fold_in(key, DECODER))
    if isinstance(model, Clip):
        return _init_clip(model, key)
    if isinstance(model, MAE):
        return {
            "encoder": _init_params(model.encoder, jax.random.fold_in(key, IMAGE)),
            "decoder": _init_pixels(model, jax.random.fold_in(key, DECODER)),
        }
    if isinstance(model, ResNet):
        return _draw(_defer(model, model.example()), key)
    rest_key, layers_key = jax.random.split(key)
    shell = model.clone(depth=0, scan=False)
    params = _draw(_defer(shell, model.example()), rest_key)
    tokens = jnp.zeros((1, 1, model.width), model.block.dtype)
    params.setdefault(model.stack, {})[STACKED] = _layers(
        Block(model.block), model.depth, layers_key, tokens
    )
    return params if model.scan else unstack_layers(params)


def _layers(block, depth: int, key: Key[Array, ""], *inputs: Array) -> dict[str, Any]:
    """Parameters of `depth` blocks with a leading depth axis."""
    keys, deferred = _folded(key, jnp.arange(depth)), _defer(block, *inputs)
    return jax.vmap(lambda k: _draw(deferred, k))(keys)


def _defer(module: nn.Module, *inputs: Any) -> Deferred:
    """How each parameter is drawn that the module makes when it is applied to `inputs`."""
    with deferred_init() as deferred:
        jax.eval_shape(lambda: module.init({}, *inputs))
    return deferred


def _draw(deferred: Deferred, key: Key[Array, ""]) -> dict[str, Any]:
    """Parameters as a nested dict, bitwise those of the module's own `init` with this key."""
    # All keys at once: each by itself would be a loop of its own, half of what is compiled here.
    keys = _folded(key, np.array([param.fold for param in deferred.values()], np.uint32))
    drawn = {
        path: param.init(key, param.shape)
        for key, (path, param) in zip(jnp.unstack(keys), deferred.items(), strict=True)
    }
    return unflatten_dict(drawn)


def _folded(key: Key[Array, ""], numbers: Array | np.ndarray) -> Key[Array, "n"]:
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)


def _init_clip(model: Clip, key: Key[Array, ""]) -> dict[str, Any]:
    params = {
        "img": _init_params(model.img, jax.random.fold_in(key, IMAGE)),
        "txt": _init_params(model.txt, jax.random.fold_in(key, TEXT)),
    }
    # The rest is constants. Without inputs no tower makes any parameter.
    return params | _draw(_defer(model), key)


def _init_decoder(model: Coca, key: Key[Array, ""]) -> dict[str, Any]:
    pool_key, rest_key, layers_key = jax.random.split(key, 3)
    decoder, dtype = model.decoder, model.decoder.block.dtype
    encoded = jnp.zeros((1, 1, model.img.width), dtype)
    states, image = (jnp.zeros((1, 1, n), dtype) for n in (decoder.width, model.pool.width))
    params = _draw(_defer(decoder.clone(depth=0, scan=False), states, image), rest_key)
    layers = _layers(DecoderBlock(decoder.block), decoder.depth, layers_key, states, image)
    params.setdefault(decoder.stack, {})[STACKED] = layers
    return {
        "pool": _draw(_defer(model.pool, encoded), pool_key),
        "decoder": params if decoder.scan else unstack_layers(params),
    }


def _init_pixels(model: MAE, key: Key[Array, ""]) -> dict[str, Any]:
    rest_key, layers_key = jax.random.split(key)
    decoder, dtype = model.decoder, model.decoder.block.dtype
    encoded = jnp.zeros((1, 1, model.encoder.width), dtype)
    restore = jnp.zeros((1, decoder.grid[0] * decoder.grid[1]), jnp.int32)
    shell = decoder.clone(depth=0, scan=False)
    params = _draw(_defer(shell, encoded, restore, decoder.grid), rest_key)
    tokens = jnp.zeros((1, 1, decoder.width), dtype)
    params.setdefault(decoder.stack, {})[STACKED] = _layers(
        Block(decoder.block), decoder.depth, layers_key, tokens
    )
    return params if decoder.scan else unstack_layers(params)
