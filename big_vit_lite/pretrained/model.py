"""A loaded model with all that goes with it: what turns images and texts into its inputs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from big_vit_lite import models, weights
from big_vit_lite.config import InputError
from big_vit_lite.data.text import TextTransform
from big_vit_lite.pretrained import arguments, classes
from big_vit_lite.pretrained import images as inputs
from big_vit_lite.pretrained.texts import parse as parse_text

CAPTURED = ("block", "attention")


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model that answers; `load` makes it.

    `apply`, and `encode_image`, `encode_text` and `logits` on arrays, are pure functions of their
    arguments: they work under jit, vmap and grad. Parameters that are given to them take the place
    of `params`.

    Attributes:
        model: the Flax module, not scanned over depth: a pure function of (params, inputs).
        params: nested dict of arrays on the default device, layers side by side.
        sections: what model it is, in the config's words; `weights.save` takes them.
        preprocessing: transform, mean and std of images; None where nothing said them.
        text: the text transform, as the config writes it; None where nothing said it.
        class_names: of a classifier, in the order of its logits; None where they are not known.
        loss: softmax or sigmoid, which makes a classifier's logits probabilities.
        source: the file or checkpoint that it came from.
        fingerprint: of the vocabulary that it was trained with; None where it is not known.
    """

    model: nn.Module
    params: dict[str, Any]
    sections: weights.Sections
    preprocessing: weights.Preprocessing | None
    text: str | None
    class_names: tuple[str, ...] | None
    loss: str
    source: str
    fingerprint: str | None = None

    def preprocess(self, images: Any) -> Float32[Array, "b h w c"] | models.Patches:
        """Images as the model was trained to see them: transformed, scaled, normalised.

        Models of images of any shape (SigLIP 2 NaFlex) get Patches, filled up to one length.

        Args:
            images: paths or URLs, Pillow images, uint8 arrays (h, w, c), or a list of them, or one
                uint8 array (b, h, w, c). Files are read by the data's own rules, the orientation
                tag left aside.

        Raises:
            InputError: an image that cannot be read, images of several sizes, or weights that do
                not say how images were preprocessed.
        """
        if self.preprocessing is None:
            raise InputError(
                f"{self.source} does not say how images were preprocessed: load it with transform= "
                "(such as \"decode|resize(224, 'bicubic')\"), mean= and std=, or give floats (b, h,"
                " w, c)."
            )
        return inputs.preprocess(images, self.preprocessing, self.sections.model.channels)

    @functools.cached_property
    def tokenizer(self) -> TextTransform:
        """From one text to its tokens; `tokenize` takes several.

        Raises:
            InputError: there is no text tower, its transform is not known, or the vocabulary is
                not there or another one.
        """
        tower = self._text_tower()
        if self.text is None:
            raise InputError(
                f"{self.source} does not say how texts become tokens, or there is no vocabulary "
                "beside it: load it with vocabulary= (a tokenizer.json or spiece.model), or with "
                "the whole transform as text=."
            )
        return parse_text(self.text, tower, self.fingerprint)

    def tokenize(self, texts: str | Sequence[str]) -> Int32[np.ndarray, "b l"]:
        """Tokens of texts, each of the tower's length.

        Raises:
            InputError: as `tokenizer`; no text, or one that cannot be taken.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        if not listed or not all(isinstance(text, str) for text in listed):
            raise InputError("texts are a string or a list of strings, and at least one.")
        rng, made = np.random.default_rng(0), []
        for text in listed:
            try:
                made.append(self.tokenizer(text, rng))
            except InputError:
                raise
            except ValueError as error:
                raise InputError(f"the text {text[:80]!r}: {error}.") from None
        return np.stack(made)

    def encode_image(self, images: Any, params: Any = None) -> Float[Array, "b e"]:
        """Features of images, float32, rows of length 1: what a text tower's are compared with; of
        a tower alone what its head gets, or its projection.

        Args:
            images: as for `preprocess`, or floats (b, h, w, c) that it returned.

        Raises:
            InputError: as `preprocess`, or a model that gives no vector an image.
        """
        return self._image_features(self._own(params), self._seen(images))

    def encode_text(self, texts: Any, params: Any = None) -> Float[Array, "b e"]:
        """Features of texts, float32, rows of length 1.

        Args:
            texts: a string, a list of strings, or tokens int (b, l).

        Raises:
            InputError: as `tokenize`, or ids outside of the vocabulary; within jit, vmap and grad
                these give NaN.
        """
        self._text_tower()
        return self._text_features(self._own(params), self._read(texts))

    def logits(self, images: Any, texts: Any = None, params: Any = None) -> Float[Array, "b c"]:
        """Of two towers scale * image @ text.T + bias, a column a text; of a classifier a column a
        class, and no texts.

        Raises:
            InputError: as `encode_image` and `encode_text`; texts for a tower alone, or none for
                two.
        """
        if self.sections.text is None:
            if texts is not None:
                self._text_tower()
            self._head()
            return self._logits(self._own(params), self._seen(images))
        if texts is None:
            raise InputError(
                f"{self.source} has no classes, but a text tower: give logits(images, texts), or "
                "take encode_image(images)."
            )
        return self._pair_logits(self._own(params), self._seen(images), self._read(texts))

    def chances(self, images: Any, params: Any = None) -> Float[Array, "b c"]:
        """A classifier's probability of each class, float32: those of an image add up to 1, or with
        a sigmoid loss each class is asked for alone.

        Raises:
            InputError: as `logits`.
        """
        self._head()
        made = self.logits(images, params=params).astype(jnp.float32)
        return jax.nn.sigmoid(made) if self.loss == "sigmoid" else jax.nn.softmax(made)

    def classify(self, images: Any, top: int = 5) -> list[list[tuple[str | int, float]]]:
        """The likeliest classes of each image with their probabilities, the best first.

        Classes are given by name, or by number where names are not known.

        Raises:
            InputError: as `logits`.
        """
        chances = self.chances(images)
        best, found = jax.device_get(jax.lax.top_k(chances, min(top, chances.shape[-1])))
        names = self.class_names or range(chances.shape[-1])
        return [
            [(names[c], float(p)) for c, p in zip(*row, strict=True)]
            for row in zip(found, best, strict=True)
        ]

    def apply(
        self,
        params: Any,
        images: Float[Array, "b h w c"] | models.Patches | None = None,
        texts: Int32[Array, "b l"] | None = None,
        capture: tuple[str, ...] = (),
    ) -> Any:
        """The model on arrays: what `preprocess` and `tokenize` return.

        Args:
            capture: "blocks" for every block's output, "attention" for every block's maps.

        Returns:
            models.clip.Embeddings (image and text features, scale, bias) of two towers, logits
            (b, classes) of a tower alone, which are its features where it has no head. With
            `capture` (that, {"block00": (b, t, d), ...}), with img/ and txt/ before the names where
            there are two towers.

        Raises:
            InputError: what is no such array, or ids outside of the vocabulary; within jit, vmap
                and grad these give NaN.
        """
        arguments.check_apply(images, texts, capture, self.sections.text)
        given = (images,) if self.sections.text is None else (images, texts)
        if self.sections.text is None and texts is not None:
            self._text_tower()
        found, out = self.model.apply({"params": params}, *given, capture=capture)
        if not capture:
            return found
        return found, {k: x for k, x in out.items() if k.split("/")[-1].startswith(CAPTURED)}

    def _own(self, params: Any) -> Any:
        return self.params if params is None else params

    def _seen(self, images: Any) -> Array:
        return images if inputs.is_preprocessed(images) else self.preprocess(images)

    def _read(self, texts: Any) -> Array:
        return texts if arguments.is_tokens(texts, self._text_tower()) else self.tokenize(texts)

    def _text_tower(self) -> Any:
        if self.sections.text is None:
            raise InputError(
                f"{self.source} is an image tower alone and reads no texts: load a pair, such as a "
                "CLIP or SigLIP."
            )
        return self.sections.text

    @property
    def classifies(self) -> bool:
        """Whether it is a tower alone with a head for classes."""
        return classes.classifies(self.sections)

    def _head(self) -> None:
        if not self.classifies:
            raise InputError(
                f"{self.source} has no head for classes: take encode_image(images), or of two "
                "towers logits(images, texts)."
            )

    @functools.cached_property
    def _image_features(self):
        def encode(params, images):
            if self.sections.text is not None:
                return self.model.apply({"params": params}, images, method="encode_image")[0]
            found, out = self.model.apply({"params": params}, images)
            found = out["pre_logits"] if self.classifies and "pre_logits" in out else found
            if found.ndim != 2:
                raise InputError(
                    f"{self.source} gives no vector an image (model.pool none): take apply, or its "
                    "blocks with capture=('blocks',)."
                )
            return models.normalized(found.astype(jnp.float32), {})[0]

        return jax.jit(encode)

    @functools.cached_property
    def _text_features(self):
        return jax.jit(lambda p, x: self.model.apply({"params": p}, x, method="encode_text")[0])

    @functools.cached_property
    def _logits(self):
        return jax.jit(lambda p, images: self.model.apply({"params": p}, images)[0])

    @functools.cached_property
    def _pair_logits(self):
        def compare(params, images, tokens):
            # The towers' own methods: a caption decoder would ask for one text an image.
            variables = {"params": params}
            joint, _ = self.model.apply(variables)
            image, _ = self.model.apply(variables, images, method="encode_image")
            text, _ = self.model.apply(variables, tokens, method="encode_text")
            return joint._replace(image=image, text=text).logits()

        return jax.jit(compare)
