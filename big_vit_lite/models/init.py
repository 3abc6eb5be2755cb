"""Initial parameters: drawn by (key, layer), the same for scanned and unrolled layers."""

import functools
from collections.abc import Callable
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


def abstract_params(model) -> dict[str, Any]:
    """Shapes (float32) of `init_params(model, key)`, without looking at how each is drawn."""
    return jax.eval_shape(lambda: _parameters(model, jax.random.key(0), _zero_params))


@functools.partial(jax.jit, static_argnums=0)
def _init_params(model, key: Key[Array, ""]) -> dict[str, Any]:
    return _parameters(model, key, _draw)


MakeParams = Callable[[Deferred, Key[Array, ""]], dict[str, Any]]  # draws, or tells shapes only


def _parameters(model, key: Key[Array, ""], make: MakeParams) -> dict[str, Any]:
    if isinstance(model, Coca):
        decoder_key = jax.random.fold_in(key, DECODER)
        return _clip_params(model, key, make) | _caption_decoder_params(model, decoder_key, make)
    if isinstance(model, Clip):
        return _clip_params(model, key, make)
    if isinstance(model, MAE):
        return {
            "encoder": _parameters(model.encoder, jax.random.fold_in(key, IMAGE), make),
            "decoder": _pixel_decoder_params(model, jax.random.fold_in(key, DECODER), make),
        }
    if isinstance(model, ResNet):
        return make(_defer(model, model.example()), key)
    rest_key, layers_key = jax.random.split(key)
    params = make(_defer(_shell(model), model.example()), rest_key)
    tokens = jnp.zeros((1, 1, model.width), model.block.dtype)
    return _with_layers(params, model, Block(model.block), layers_key, make, tokens)


def _shell(stack: nn.Module) -> nn.Module:
    """All of it but its layers."""
    return stack.clone(depth=0, scan=False)


def _with_layers(
    params: dict[str, Any],
    stack: nn.Module,
    block: nn.Module,
    key: Key[Array, ""],
    make: MakeParams,
    *inputs: Array,
) -> dict[str, Any]:
    """`params` of a shell, and those of its layers as the stack has them."""
    keys, deferred = _folded(key, jnp.arange(stack.depth)), _defer(block, *inputs)
    layers = jax.vmap(lambda k: make(deferred, k))(keys)
    params.setdefault(stack.stack, {})[STACKED] = layers
    return params if stack.scan else unstack_layers(params)


def _clip_params(model: Clip, key: Key[Array, ""], make: MakeParams) -> dict[str, Any]:
    params = {
        "img": _parameters(model.img, jax.random.fold_in(key, IMAGE), make),
        "txt": _parameters(model.txt, jax.random.fold_in(key, TEXT), make),
    }
    # The rest is constants. Without inputs no tower makes any parameter.
    return params | make(_defer(model), key)


def _caption_decoder_params(model: Coca, key: Key[Array, ""], make: MakeParams) -> dict[str, Any]:
    pool_key, rest_key, layers_key = jax.random.split(key, 3)
    decoder, dtype = model.decoder, model.decoder.block.dtype
    encoded = jnp.zeros((1, 1, model.img.width), dtype)
    states, image = (jnp.zeros((1, 1, n), dtype) for n in (decoder.width, model.pool.width))
    rest = make(_defer(_shell(decoder), states, image), rest_key)
    block = DecoderBlock(decoder.block)
    return {
        "pool": make(_defer(model.pool, encoded), pool_key),
        "decoder": _with_layers(rest, decoder, block, layers_key, make, states, image),
    }


def _pixel_decoder_params(model: MAE, key: Key[Array, ""], make: MakeParams) -> dict[str, Any]:
    rest_key, layers_key = jax.random.split(key)
    decoder, dtype = model.decoder, model.decoder.block.dtype
    encoded = jnp.zeros((1, 1, model.encoder.width), dtype)
    restore = jnp.zeros((1, decoder.grid[0] * decoder.grid[1]), jnp.int32)
    rest = make(_defer(_shell(decoder), encoded, restore, decoder.grid), rest_key)
    tokens = jnp.zeros((1, 1, decoder.width), dtype)
    return _with_layers(rest, decoder, Block(decoder.block), layers_key, make, tokens)


def _defer(module: nn.Module, *inputs: Any) -> Deferred:
    """How each parameter is drawn that the module makes when it is applied to `inputs`."""
    return _cached_defer(module, *jax.tree.map(_abstract, inputs))


@functools.lru_cache(maxsize=256)
def _cached_defer(module: nn.Module, *inputs: Any) -> Deferred:
    # A start asks several times: for shapes, for values, for what a step computes. Whoever asks
    # gets the same dict, and only reads it.
    with deferred_init() as deferred:
        jax.eval_shape(lambda: module.init({}, *jax.tree.map(_zeros, inputs)))
    return deferred


def _abstract(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x


def _zeros(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if hasattr(x, "dtype") else x


def _draw(deferred: Deferred, key: Key[Array, ""]) -> dict[str, Any]:
    """Parameters as a nested dict, bitwise those of the module's own `init` with this key."""
    # All keys at once: each by itself would be a loop of its own, half of what is compiled here.
    keys = _folded(key, np.array([param.fold for param in deferred.values()], np.uint32))
    drawn = {
        path: param.init(key, param.shape)
        for key, (path, param) in zip(jnp.unstack(keys), deferred.items(), strict=True)
    }
    return unflatten_dict(drawn)


def _zero_params(deferred: Deferred, key: Key[Array, ""]) -> dict[str, Any]:
    return unflatten_dict(
        {path: jnp.zeros(param.shape, jnp.float32) for path, param in deferred.items()}
    )


def _folded(key: Key[Array, ""], numbers: Array | np.ndarray) -> Key[Array, "n"]:
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
