"""Two towers into one space: CLIP (Radford 2021), LiT (Zhai 2022), SigLIP (Zhai 2023)."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from big_vit_lite.models.layers.param import param


class Embeddings(NamedTuple):
    """What a contrastive loss compares; logits are scale * image @ text.T + bias.

    image, text: (b, e) and (c, e), float32, rows of length 1; None where no input came.
    scale: () factor on the similarities. bias: () or None.
    """

    image: Float[Array, "b e"] | None
    text: Float[Array, "c e"] | None
    scale: Float[Array, ""]
    bias: Float[Array, ""] | None

    def logits(self) -> Float[Array, "b c"]:
        """All images against all texts: for small batches and for tests."""
        product = jnp.einsum("be,ce->bc", self.image, self.text, precision="highest")
        return self.scale * product + (0.0 if self.bias is None else self.bias)


class Clip(nn.Module):
    """An image and a text tower with a learned logit scale; `build_clip` makes one from a config.

    Parameters have big_vision's names: img/..., txt/..., t (1,) the logarithm of the scale, b (1,)
    the bias. Each tower gives (features (b, e), intermediates).

    Fields:
        logit_scale: the scale at the start, 1/temperature.
        max_logit_scale: the scale never is larger; None: any.
        logit_bias: the bias at the start; None: no bias.
    """

    img: nn.Module
    txt: nn.Module
    logit_scale: float
    max_logit_scale: float | None = None
    logit_bias: float | None = None

    def setup(self):
        constant = nn.initializers.constant
        self.t = param(self, "t", constant(np.log(self.logit_scale)), (1,))
        if self.logit_bias is not None:
            self.b = param(self, "b", constant(self.logit_bias), (1,))

    @property
    def scan(self) -> bool:
        """Whether parameters of either tower have a depth axis."""
        return self.img.scan or self.txt.scan

    def __call__(
        self,
        images: Float[Array, "b H W c"] | None = None,
        tokens: Int[Array, "c l"] | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Embeddings, dict[str, Array]]:
        """Embeddings of images, texts or both, and the towers' intermediates as img/..., txt/...

        Their lengths before normalisation are img/norm and txt/norm, (b, 1).
        """
        image, text, out = None, None, {}
        if images is not None:
            image, seen = self.encode_image(images, train, capture)
            out |= {f"img/{name}": x for name, x in seen.items()}
        if tokens is not None:
            text, seen = self.encode_text(tokens, train, capture)
            out |= {f"txt/{name}": x for name, x in seen.items()}
        bias = None if self.logit_bias is None else self.b[0]
        return Embeddings(image, text, self._scale(), bias), out

    def encode_image(
        self,
        images: Float[Array, "b H W c"],
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b e"], dict[str, Array]]:
        """Normalised features of images; `model.apply(..., method="encode_image")`."""
        return normalized(*self.img(images, train=train, capture=capture))

    def encode_text(
        self, tokens: Int[Array, "c l"], train: bool = False, capture: tuple[str, ...] = ()
    ) -> tuple[Float[Array, "c e"], dict[str, Array]]:
        """Normalised features of texts; `model.apply(..., method="encode_text")`."""
        return normalized(*self.txt(tokens, train=train, capture=capture))

    def _scale(self) -> Float[Array, ""]:
        t = self.t[0]
        if self.max_logit_scale is not None:
            t = clamp(t, float(np.log(self.max_logit_scale)))
        return jnp.exp(t)


def normalized(
    features: Float[Array, "b e"], out: dict[str, Array]
) -> tuple[Float[Array, "b e"], dict[str, Array]]:
    # The square root's gradient at 0 is infinite: features of zeros stay zeros, with gradient 0.
    square = jnp.square(features).sum(axis=-1, keepdims=True)
    norm = jnp.sqrt(jnp.maximum(square, 1e-24))
    return features / norm, out | {"norm": norm}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clamp(t: Float[Array, ""], largest: float) -> Float[Array, ""]:
    """min(t, largest), whose gradient above `largest` passes only if it brings t down.

    It does what clamping the parameter after each step does (Radford 2021), to a step: with the
    plain gradient of `min`, t would never move again once it is above.
    """
    return jnp.minimum(t, largest)


def _clamp_forward(t, largest):
    return jnp.minimum(t, largest), t


def _clamp_backward(largest, t, g):
    # Descent goes against g: a negative one raises t.
    return (jnp.where((t > largest) & (g < 0), 0.0, g),)


clamp.defvjp(_clamp_forward, _clamp_backward)
