"""CoCa (Yu 2022) as open_clip trained it: two towers, and a decoder that writes captions.

image tokens -> attention of 256 queries -> the first: the image's features; all others: what the
decoder looks at while it reads the text tower's tokens.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_vit_lite.models.clip import Clip, normalized
from big_vit_lite.models.layers.blocks import Block, BlockSpec, Mlp, Tokens, rematerialised
from big_vit_lite.models.layers.linear import Linear
from big_vit_lite.models.layers.param import param
from big_vit_lite.parallel import constrain


class QueryPooling(nn.Module):
    """Learned queries attend to the encoded image; the first one becomes its features."""

    block: BlockSpec
    width: int
    queries: int = 256

    @nn.compact
    def __call__(
        self, encoded: Float[Array, "b t d"]
    ) -> tuple[Float[Array, "b e"], Float[Array, "b q-1 e"]]:
        init = nn.initializers.normal
        queries = param(self, "queries", init(1.0), (1, self.queries, self.width))
        queries = self.block.norm("LayerNorm_0")(queries)
        queries = jnp.broadcast_to(queries, (encoded.shape[0], *queries.shape[1:]))
        x, _ = self.block.attend("MultiHeadDotProductAttention_0")(queries, encoded)
        x = constrain(self.block.norm("LayerNorm_1")(x))
        head = Linear(
            self.width,
            bias=False,
            dtype=jnp.float32,
            kernel_init=init(self.width**-0.5),
            name="head",
        )
        return head(x[:, 0]), x[:, 1:]


class DecoderBlock(nn.Module):
    """A block of the text with itself, then one in which it looks at the image."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Tokens, image: Float[Array, "b q e"]) -> tuple[Tokens, None]:
        spec = self.spec
        x, _ = Block(spec, name="Block_0")(x)
        cross = spec.attend("MultiHeadDotProductAttention_0")
        x = x + cross(spec.norm("LayerNorm_0")(x), spec.norm("LayerNorm_context")(image))[0]
        return x + Mlp(spec, name="MlpBlock_0")(spec.norm("LayerNorm_1")(x)), None


class CaptionDecoder(nn.Module):
    """Logits of the next token at every position, from text states and image tokens."""

    width: int
    depth: int
    block: BlockSpec
    vocabulary: int
    remat: str = "none"
    scan: bool = False

    stack = "Decoder_0"

    @nn.compact
    def __call__(self, x: Tokens, image: Float[Array, "b q e"]) -> Float[Array, "b l v"]:
        x = _Stack(self.depth, self.block, self.remat, self.scan, name=self.stack)(x, image)
        head = Linear(
            self.vocabulary,
            bias=False,
            dtype=self.block.dtype,
            kernel_init=nn.initializers.normal(self.width**-0.5),
            grad_dtype=self.block.grad_dtype,
            name="head",
        )
        return constrain(head(x).astype(jnp.float32))


class _Stack(nn.Module):
    depth: int
    spec: BlockSpec
    remat: str
    scan: bool

    @nn.compact
    def __call__(self, x: Tokens, image: Float[Array, "b q e"]) -> Tokens:
        block = rematerialised(DecoderBlock, self.remat, in_scan=self.scan)
        if self.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=self.depth,
            )
            x, _ = stack(self.spec, name="encoderblock")(x, image)
        else:
            for i in range(self.depth):
                x, _ = block(self.spec, name=f"encoderblock_{i}")(x, image)
        return self.spec.norm("encoder_norm")(x)


class Coca(Clip):
    """CLIP's two towers, whose image tower is pooled by queries, and a caption decoder.

    The image tower has no head, the text tower pools "cls". Beside what `Clip` has, parameters are
    pool/... and decoder/..., and intermediates of an image "image_tokens" (b, q - 1, e).
    """

    pool: nn.Module | None = None
    decoder: nn.Module | None = None

    @property
    def scan(self) -> bool:
        return self.img.scan or self.txt.scan or self.decoder.scan

    def __call__(
        self,
        images: Float[Array, "b H W c"] | None = None,
        tokens: Int[Array, "b l"] | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ):
        """As `Clip`, and with both inputs out["caption/logits"] (b, l, vocabulary): at position i
        for token i + 1 of the image's text."""
        embeddings, out = super().__call__(images, tokens, train, capture)
        if images is not None and tokens is not None:
            states = out["txt/unnormalized"][:, : tokens.shape[1]]
            with jax.named_scope("decoder"):
                out["caption/logits"] = self.decoder(states, out["img/image_tokens"])
        return embeddings, out

    def encode_image(
        self,
        images: Float[Array, "b H W c"],
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b e"], dict[str, Array]]:
        """Normalised features of images; `model.apply(..., method="encode_image")`."""
        _, out = self.img(images, train=train, capture=capture)
        features, image_tokens = self.pool(out["encoded"])
        return normalized(features, out | {"image_tokens": image_tokens})

    def caption_logits(
        self, image_tokens: Float[Array, "b q e"], tokens: Int[Array, "b l"]
    ) -> Float[Array, "b l v"]:
        """At each position the logits of the next token; tokens behind it change nothing."""
        _, out = self.txt(tokens)
        return self.decoder(out["unnormalized"][:, : tokens.shape[1]], image_tokens)
