"""A Transformer block and the stack of them, scanned or unrolled over depth."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.attention import KEPT, Attention, Mask, rows
from big_vit_lite.models.layers.inits import kernel_init, mlp_bias_init
from big_vit_lite.models.layers.linear import Linear
from big_vit_lite.models.layers.noise import PartKey, dropout, split_key, stochastic_depth
from big_vit_lite.models.layers.norms import LayerNorm, LayerScale
from big_vit_lite.models.layers.pipeline import pipeline
from big_vit_lite.parallel import (
    axis_size,
    constrain,
    gather_weights,
    split_tokens,
    weights_are_split,
)

Tokens = Float[Array, "b n d"]

ACTIVATIONS = {
    "erf": lambda x: jax.nn.gelu(x, approximate=False),
    "tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""GELU (Hendrycks 2016), its tanh form (AugReg, SigLIP) and its sigmoid form (OpenAI's CLIP)."""


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What the blocks of one stack share.

    `bias` is for the output projection, the MLP and the norms; `qkv_bias` for query, key, value.
    `layer_scale` is its initial value, None for none. `attention` names a path of attention.py,
    `init` a rule of inits.py, which may want to know the `depth` of the stack. `microbatches`
    are the parts of a batch in a pipeline; `tokens` how many are real, where the mesh splits them
    and padding may follow; `grad_dtype` the type of weights' gradients, see linear.py.
    """

    heads: int
    mlp_dim: int
    activation: str = "tanh"
    norm_eps: float = 1e-6
    bias: bool = True
    qkv_bias: bool = True
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    attention: str = "xla"
    dtype: DTypeLike = jnp.float32
    causal: bool = False
    init: str = "xavier"
    depth: int | None = None
    microbatches: int = 1
    tokens: int | None = None
    grad_dtype: str | None = None

    def norm(self, name: str, **overrides) -> LayerNorm:
        """A norm as these blocks have it."""
        fields = {"eps": self.norm_eps, "bias": self.bias, "dtype": self.dtype, **overrides}
        return LayerNorm(**fields, name=name)

    def attend(self, name: str, **overrides) -> Attention:
        """Attention as these blocks have it."""
        fields = {
            "heads": self.heads,
            "qkv_bias": self.qkv_bias,
            "bias": self.bias,
            "implementation": self.attention,
            "dtype": self.dtype,
            "init_rule": self.init,
            "depth": self.depth,
            "tokens": self.tokens,
            "grad_dtype": self.grad_dtype,
            **overrides,
        }
        return Attention(**fields, name=name)


GATED = "swiglu"
"""silu(gate) * value (Shazeer 2020): two maps into the hidden features. DINOv2's g/14 has it."""


class Mlp(nn.Module):
    """Two linear maps with an activation between, or with a gate of a third one's outputs."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Tokens, key: Key[Array, ""] | None = None) -> Tokens:
        spec, width = self.spec, x.shape[-1]

        def dense(name: str, part: str, inputs: int, outputs: int) -> Linear:
            return Linear(
                outputs,
                bias=spec.bias,
                dtype=spec.dtype,
                kernel_init=kernel_init(spec.init, part, spec.depth),
                bias_init=mlp_bias_init(spec.init, inputs),
                grad_dtype=spec.grad_dtype,
                name=name,
            )

        y = dense("Dense_0", "mlp_in", width, spec.mlp_dim)(rows(x))
        if spec.activation == GATED:
            y = y * jax.nn.silu(dense("Gate_0", "mlp_in", width, spec.mlp_dim)(rows(x)))
        else:
            y = ACTIVATIONS[spec.activation](y)
        y = rows(dropout(y.reshape(*x.shape[:-1], -1), spec.dropout, key))
        return dense("Dense_1", "mlp_out", spec.mlp_dim, width)(y).reshape(x.shape)


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).

    Args (of the call): tokens; `noise` = (key of this layer, rate of stochastic depth), each None
        when there is nothing to draw; `mask` of what each token may look at, beside `causal`.

    Returns:
        the tokens, and what `capture` asks for: "blocks" the tokens again, "attention" the maps.
    """

    spec: BlockSpec
    capture: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self, x: Tokens, noise: tuple = (None, None), mask: Mask | None = None
    ) -> tuple[Tokens, dict[str, Array]]:
        spec, (key, rate) = self.spec, noise
        keys = (None,) * 6 if key is None else split_key(key, 6)

        def residual(x: Tokens, y: Tokens, index: int) -> Tokens:
            if spec.layer_scale is not None:
                y = LayerScale(spec.layer_scale, name=f"LayerScale_{index}")(y)
            y = dropout(y, spec.dropout, keys[2 * index])
            return x + stochastic_depth(y, rate, keys[2 * index + 1])

        x = constrain(x, None if spec.tokens is None else "sequence")
        attention = spec.attend(
            "MultiHeadDotProductAttention_0",
            dropout=spec.attention_dropout,
            maps="attention" in self.capture,
            causal=spec.causal,
        )
        y, maps = attention(spec.norm("LayerNorm_0")(x), key=keys[4], mask=mask)
        x = residual(x, y, 0)
        y = Mlp(spec, name="MlpBlock_0")(spec.norm("LayerNorm_1")(x), keys[5])
        x = residual(x, y, 1)
        seen = {"blocks": x, "attention": maps}
        return x, {name: seen[name] for name in self.capture}


class Encoder(nn.Module):
    """`depth` blocks and a final norm, unless it is said to be elsewhere.

    Scanned, the parameters are encoderblock/... with a leading depth axis; unrolled, they are
    encoderblock_0/... and so on. Results are the same, noise included. `remat` says what the
    backward pass computes again: "none", "dots" (all but matrix products), "full" (all).
    """

    depth: int
    spec: BlockSpec
    stochastic_depth: float = 0.0
    remat: str = "none"
    scan: bool = False
    final_norm: bool = True

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        key: Key[Array, ""] | None = None,
        capture: tuple[str, ...] = (),
        mask: Mask | None = None,
    ) -> tuple[Tokens, dict[str, Array]]:
        spec, tokens, block = self.spec, x.shape[1], Block
        if axis_size("sequence") > 1 and not spec.causal:  # texts are short and stay whole
            x, spec = split_tokens(x), dataclasses.replace(spec, tokens=tokens)
        if weights_are_split() and not self.is_initializing():
            gather = functools.partial(
                gather_weights,
                dtype=spec.dtype,
                depth=self.depth if self.scan else None,
                grad_dtype=spec.grad_dtype,
            )
            block = nn.map_variables(Block, "params", trans_in_fn=gather)
        block = rematerialised(block, self.remat, in_scan=self.scan)
        keys, rates = self._noise(key)
        staged = axis_size("stage") > 1 and not self.is_initializing()
        if keys is not None and spec.tokens is not None and not staged:
            keys = PartKey(keys, tokens=tokens)
        if staged:
            x, layers = self._in_stages(block(spec, parent=None), x, keys, rates, mask, capture), []
        elif self.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                length=self.depth,
            )
            x, seen = stack(spec, capture, name="encoderblock")(x, (keys, rates), mask)
            layers = [{name: y[i] for name, y in seen.items()} for i in range(self.depth)]
        else:
            layers = []
            for i in range(self.depth):
                noise = jax.tree.map(lambda y, i=i: y[i], (keys, rates))
                x, seen = block(spec, capture, name=f"encoderblock_{i}")(x, noise, mask)
                layers.append(seen)
        prefix = {"blocks": "block", "attention": "attention"}
        captured = {
            f"{prefix[name]}{i:02d}": y for i, seen in enumerate(layers) for name, y in seen.items()
        }
        captured["unnormalized"] = x
        if spec.tokens is not None:  # without padding
            captured = {
                name: y[:, :tokens] if y.ndim == 3 else y[:, :, :tokens]
                for name, y in captured.items()
            }
        x = self.spec.norm("encoder_norm")(x) if self.final_norm else x
        return x[:, :tokens], captured

    def _in_stages(
        self, block: Block, x: Tokens, keys, rates, mask: Mask | None, capture: tuple[str, ...]
    ) -> Tokens:
        """The blocks as a pipeline over the mesh axis `stage`."""
        stages = axis_size("stage")
        if capture:
            raise InputError(
                f"Intermediates of blocks ({', '.join(capture)}) stay on the stages of a pipeline: "
                "compute them with mesh.stage=1."
            )
        if not self.scan or self.depth % stages:
            found = f"{self.depth} blocks" if self.scan else "blocks that are unrolled"
            raise InputError(
                f"mesh.stage is {stages}, and the model has {found}: set model.scan=true, and "
                "stages that divide the depth."
            )

        def apply(params, x, noise, mask):
            return block.apply({"params": params}, x, noise, mask)[0]

        params = self.variables["params"]["encoderblock"]
        parts, tokens = self.spec.microbatches, block.spec.tokens
        return pipeline(apply, params, x, keys, rates, mask, parts, tokens)

    def _noise(self, key: Key[Array, ""] | None) -> tuple[Array | None, Array | None]:
        """A key a layer, and rates of stochastic depth rising linearly to the given one."""
        if key is None:
            return None, None
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.depth))
        if not self.stochastic_depth:
            return keys, None
        # From the end, so that a single layer gets the rate itself.
        rates = np.linspace(self.stochastic_depth, 0, self.depth)[::-1]
        return keys, jnp.asarray(rates, jnp.float32)


def rematerialised(block: type[nn.Module], remat: str, in_scan: bool) -> type[nn.Module]:
    """The same block, whose backward pass computes anew what `remat` says."""
    if remat == "none":
        return block
    keep = jax.checkpoint_policies
    dots = keep.save_from_both_policies(
        keep.dots_with_no_batch_dims_saveable, keep.save_only_these_names(KEPT)
    )
    policies = {"dots": dots, "full": None}
    # A scan's body is compiled apart, so that the barriers against common subexpressions, which
    # cost time, have nothing to prevent there.
    return nn.remat(block, policy=policies[remat], prevent_cse=not in_scan)
