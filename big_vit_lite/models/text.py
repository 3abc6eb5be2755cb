"""The text Transformer of CLIP (Radford 2021) and SigLIP (Zhai 2023), and what differs in them.

tokens -> embeddings + positions [, class] -> blocks, causal or not -> pooling -> features
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.blocks import BlockSpec, Encoder
from big_vit_lite.models.layers.linear import Embedding, Linear, add_bias
from big_vit_lite.models.layers.noise import dropout
from big_vit_lite.models.layers.param import param
from big_vit_lite.models.layers.pooling import AttentionPooling
from big_vit_lite.parallel import constrain

CAPTURES = ("blocks", "attention")


class TextTransformer(nn.Module):
    """A text tower; `build_clip` makes one from a config and checks it.

    Parameters have big_vision's names (Embed_0/embedding, pos_embedding, Encoder_0, MAPHead_0,
    head). `init_params` gives their initial values.

    Fields that do not speak for themselves:
        block: what all blocks share; its `causal` says whether tokens see those behind them.
        length: rows of the position table; shorter texts take the first ones.
        features: outputs of the head, 0 for no head.
        pool: end (of `end_id`, or of the largest id where that is None), last, cls, gap or map.
        pad_id: tokens that no token sees and no pool counts; None: all are seen.
        pad_shift: positions by which that mask is moved to the right, the first then being seen.
            Published CoCa weights were trained with 1.
    """

    width: int
    depth: int
    block: BlockSpec
    vocabulary: int
    length: int
    features: int
    head_bias: bool = True
    pool: str = "end"
    end_id: int | None = None
    pad_id: int | None = None
    pad_shift: int = 0
    position_std: float = 0.01
    stochastic_depth: float = 0.0
    remat: str = "none"
    scan: bool = False

    stack = "Encoder_0"

    def example(self) -> Int[Array, "1 l"]:
        """One text, to make parameters for."""
        return jnp.zeros((1, self.length), jnp.int32)

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b l"],
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Features of texts in float32, and a dict of what was on the way.

        Args:
            tokens: ids below `vocabulary`; others give NaN.
            train: draw the noise of training; needs rngs={"dropout": key} if any rate is not 0.
            capture: "blocks" for every block's output, "attention" for every block's maps.

        Returns:
            features (b, f), not normalised;
            {"tokens": (b, n, d) what enters the blocks, with the class token last; "block00"...
            (b, n, d) and "attention00"... (b, heads, n, n), on request; "unnormalized": (b, n, d)
            what leaves them, and "encoded" after the last norm; "pooled": (b, d)}.

        Raises:
            InputError: texts are longer than the position table.
        """
        for name in capture:
            if name not in CAPTURES:
                raise ValueError(f"capture: {name!r} is not one of {', '.join(CAPTURES)}.")
        if tokens.shape[1] > self.length:
            raise InputError(
                f"The texts have {tokens.shape[1]} tokens, the text tower's position table "
                f"{self.length}: truncate them in data.*.text, or set text.length."
            )
        noise = self._noise_keys(train)
        tokens = constrain(tokens)
        x = self._embed(tokens)
        out = {"tokens": x}
        x = dropout(x, self.block.dropout, noise["tokens"])
        encoder = Encoder(
            self.depth, self.block, self.stochastic_depth, self.remat, self.scan, name=self.stack
        )
        seen = self._seen(tokens)
        mask = None if seen is None else seen[:, None, None, :]
        encoded, captured = encoder(x, noise["blocks"], capture, mask)
        out |= captured | {"encoded": encoded}
        with jax.named_scope("pool"):
            x = out["pooled"] = self._pool(encoded, tokens, seen)
        if self.features:
            # The standard deviation of both is 1 / sqrt(width).
            xavier = self.block.init == "xavier"
            init = nn.initializers
            head = Linear(
                self.features,
                bias=self.head_bias,
                dtype=jnp.float32,
                kernel_init=init.lecun_normal() if xavier else init.normal(self.width**-0.5),
                name="head",
            )
            x = head(x)
        return constrain(x.astype(jnp.float32)), out

    def _noise_keys(self, train: bool) -> dict[str, Key[Array, ""] | None]:
        if not train or not any((self.block.dropout, self.stochastic_depth)):
            return {"tokens": None, "blocks": None}
        tokens, blocks = jax.random.split(self.make_rng("dropout"))
        return {"tokens": tokens, "blocks": blocks}

    def _embed(self, tokens: Int[Array, "b l"]) -> Float[Array, "b n d"]:
        """Token and position embeddings, the class token behind them."""
        dtype, init = self.block.dtype, nn.initializers
        std = self.width**-0.5 if self.block.init == "xavier" else 0.02
        table = Embedding(self.vocabulary, self.width, dtype, init.normal(std), name="Embed_0")
        x = table(tokens)
        if self.pool == "cls":
            cls = param(self, "cls", init.normal(self.position_std), (1, 1, self.width))
            cls = jnp.broadcast_to(cls, (x.shape[0], 1, self.width))
            x = jnp.concatenate([x, cls.astype(dtype)], axis=1)
        rows = self.length + (self.pool == "cls")
        positions = param(
            self, "pos_embedding", init.normal(self.position_std), (1, rows, self.width)
        )
        return constrain(add_bias(x, positions[0, : x.shape[1]], self.block.grad_dtype))

    def _seen(self, tokens: Int[Array, "b l"]) -> Bool[Array, "b n"] | None:
        """Which positions may be looked at."""
        if self.pad_id is None:
            return None
        ones = jnp.ones((tokens.shape[0], 1), bool)
        seen = tokens != self.pad_id
        if self.pool == "cls":
            seen = jnp.concatenate([seen, ones], axis=1)
        if self.pad_shift:
            seen = jnp.concatenate([*[ones] * self.pad_shift, seen], axis=1)[:, : seen.shape[1]]
        return seen

    def _pool(
        self,
        encoded: Float[Array, "b n d"],
        tokens: Int[Array, "b l"],
        seen: Bool[Array, "b n"] | None,
    ) -> Float[Array, "b d"]:
        if self.pool in ("last", "cls"):
            return encoded[:, -1]
        if self.pool == "end":
            found = tokens if self.end_id is None else tokens == self.end_id
            at = jnp.argmax(found, axis=1)  # the first of equals
            return jnp.take_along_axis(encoded, at[:, None, None], axis=1)[:, 0]
        if self.pool == "map":
            mask = None if seen is None else seen[:, None, None, :]
            return AttentionPooling(self.block, name="MAPHead_0")(encoded, mask)
        if seen is None:
            return encoded.mean(axis=1, dtype=jnp.float32)
        weights = seen[:, :, None] / jnp.maximum(seen.sum(axis=1), 1)[:, None, None]
        return (encoded.astype(jnp.float32) * weights).sum(axis=1)
