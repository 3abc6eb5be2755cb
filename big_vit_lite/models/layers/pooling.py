"""From tokens to one vector a sample: class token, mean over patches, or attention of a probe."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from big_vit_lite.models.layers.attention import Mask
from big_vit_lite.models.layers.blocks import BlockSpec, Mlp
from big_vit_lite.models.layers.param import param


class AttentionPooling(nn.Module):
    """A learned probe attends to all tokens, then an MLP (Lee 2019; Zhai 2022, "MAP head")."""

    spec: BlockSpec

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], mask: Mask | None = None
    ) -> Float[Array, "b d"]:
        batch, _, width = tokens.shape
        probe = param(self, "probe", nn.initializers.xavier_uniform(), (1, 1, width))
        probe = jnp.broadcast_to(probe.astype(tokens.dtype), (batch, 1, width))
        x, _ = self.spec.attend("MultiHeadDotProductAttention_0")(probe, tokens, mask=mask)
        y = self.spec.norm("LayerNorm_0")(x)
        return (x + Mlp(self.spec, name="MlpBlock_0")(y))[:, 0]


def pool_tokens(
    kind: str,
    tokens: Float[Array, "b n d"],
    prefix: int,
    spec: BlockSpec,
    seen: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b d"] | Float[Array, "b n-prefix d"]:
    """What the head reads, from encoded tokens of which the first `prefix` are no patches.

    cls: the first token. gap: the mean over patches, in float32. cls_gap: both, side by side.
    map: a probe's attention to all tokens, parameters in MAPHead_0 of the calling module. none: the
    patches themselves. Of tokens that are not `seen`, gap and map take nothing.
    """
    if kind == "cls":
        return tokens[:, 0]
    if kind == "gap" and seen is None:
        return tokens[:, prefix:].mean(axis=1, dtype=jnp.float32)
    if kind == "gap":
        counts = seen[:, prefix:, None].astype(jnp.float32)
        total = (tokens[:, prefix:].astype(jnp.float32) * counts).sum(axis=1)
        return total / jnp.maximum(counts.sum(axis=1), 1)
    if kind == "cls_gap":
        both = (pool_tokens(part, tokens, prefix, spec, seen) for part in ("cls", "gap"))
        return jnp.concatenate(list(both), axis=-1)
    if kind == "map":
        mask = None if seen is None else seen[:, None, None, :]
        return AttentionPooling(spec, name="MAPHead_0")(tokens, mask)
    return tokens[:, prefix:]
