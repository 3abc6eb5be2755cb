"""Initial parameters: drawn by (key, layer), the same for scanned and unrolled layers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from big_vit_lite.models.clip import Clip
from big_vit_lite.models.coca import Coca, DecoderBlock
from big_vit_lite.models.layers.blocks import Block
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
        return model.init(key, model.example())["params"]
    rest_key, layers_key = jax.random.split(key)
    shell = model.clone(depth=0, scan=False)
    params = shell.init(rest_key, model.example())["params"]
    tokens = jnp.zeros((1, 1, model.width), model.block.dtype)
    params.setdefault(model.stack, {})[STACKED] = _layers(
        Block(model.block), model.depth, layers_key, tokens
    )
    return params if model.scan else unstack_layers(params)


def _layers(block, depth: int, key: Key[Array, ""], *inputs: Array) -> dict[str, Any]:
    """Parameters of `depth` blocks with a leading depth axis."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(depth))
    return jax.vmap(lambda k: block.init(k, *inputs)["params"])(keys)


def _init_clip(model: Clip, key: Key[Array, ""]) -> dict[str, Any]:
    params = {
        "img": _init_params(model.img, jax.random.fold_in(key, IMAGE)),
        "txt": _init_params(model.txt, jax.random.fold_in(key, TEXT)),
    }
    # The rest is constants. Without inputs no tower makes any parameter.
    return params | model.init(key)["params"]


def _init_decoder(model: Coca, key: Key[Array, ""]) -> dict[str, Any]:
    pool_key, rest_key, layers_key = jax.random.split(key, 3)
    decoder, dtype = model.decoder, model.decoder.block.dtype
    encoded = jnp.zeros((1, 1, model.img.width), dtype)
    states, image = (jnp.zeros((1, 1, n), dtype) for n in (decoder.width, model.pool.width))
    params = decoder.clone(depth=0, scan=False).init(rest_key, states, image)["params"]
    layers = _layers(DecoderBlock(decoder.block), decoder.depth, layers_key, states, image)
    params[decoder.stack][STACKED] = layers
    return {
        "pool": model.pool.init(pool_key, encoded)["params"],
        "decoder": params if decoder.scan else unstack_layers(params),
    }


def _init_pixels(model: MAE, key: Key[Array, ""]) -> dict[str, Any]:
    rest_key, layers_key = jax.random.split(key)
    decoder, dtype = model.decoder, model.decoder.block.dtype
    encoded = jnp.zeros((1, 1, model.encoder.width), dtype)
    restore = jnp.zeros((1, decoder.grid[0] * decoder.grid[1]), jnp.int32)
    shell = decoder.clone(depth=0, scan=False)
    params = shell.init(rest_key, encoded, restore, decoder.grid)["params"]
    tokens = jnp.zeros((1, 1, decoder.width), dtype)
    params.setdefault(decoder.stack, {})[STACKED] = _layers(
        Block(decoder.block), decoder.depth, layers_key, tokens
    )
    return params if decoder.scan else unstack_layers(params)
