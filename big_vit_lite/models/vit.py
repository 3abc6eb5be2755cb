"""The Vision Transformer (Dosovitskiy 2021): the whole model, with all that published ones vary.

images [-> a ResNet's maps] -> patches -> + positions -> [class, registers, patches] -> blocks
-> pooling -> logits
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.blocks import BlockSpec, Encoder
from big_vit_lite.models.layers.linear import Linear, add_bias
from big_vit_lite.models.layers.noise import dropout, patch_dropout
from big_vit_lite.models.layers.param import param
from big_vit_lite.models.layers.patches import PatchEmbedding, patch_grid
from big_vit_lite.models.layers.pooling import pool_tokens
from big_vit_lite.models.layers.positions import SINUSOIDS, resample
from big_vit_lite.models.layers.stem import ResNetStem, StemSpec
from big_vit_lite.parallel import constrain

CAPTURES = ("blocks", "attention")


class ViT(nn.Module):
    """A Vision Transformer; `build_model` makes one from a config and checks it.

    Parameters have the published JAX names (embedding, pos_embedding, cls, Transformer, MAPHead_0,
    pre_logits, head). `init_params` gives their initial values; Linen's own `init` works, but
    draws other values when layers are scanned than when they are not.

    Fields that do not speak for themselves:
        image_shape: (height, width, channels) for which parameters are made; other sizes can be
            applied, the positions are resampled.
        classes: 0 for no head, the logits are then the head's input.
        stem: of hybrids, the ResNet whose maps patches are cut from, parameters in `stem`; patches
            and strides are then in positions of the maps. None: of the images.
        head_bias: start of the head's bias, None for none.
        drop_edge: pixels at the right and lower edge that fill no patch are left out, not refused.
        position_grid: rows and columns of the position table. None for sinusoids: the image's own.
        pool_norm: the norm behind the blocks comes after pooling; "encoded" is not normalised then.
        class_position: the learned table has first rows for the class and distillation tokens.
        distillation: a token behind the class token, `dist`, with a head of its own, `head_dist`,
            unless `distillation_head` says that it has none.
        pre_logits: features of a tanh layer before the head, 0 for none.
        block: what all blocks share, its compute dtype included.
    """

    width: int
    depth: int
    block: BlockSpec
    patch: tuple[int, int]
    patch_stride: tuple[int, int]
    image_shape: tuple[int, int, int]
    classes: int
    stem: StemSpec | None = None
    patch_bias: bool = True
    drop_edge: bool = False
    pool: str = "cls"
    pool_norm: bool = False
    class_token: bool = True
    positions: str = "learned"
    position_grid: tuple[int, int] | None = None
    class_position: bool = True
    position_std: float = 0.02
    position_resample: str = "cubic"
    position_offset: float = 0.0
    registers: int = 0
    distillation: bool = False
    distillation_head: bool = True
    pre_norm: bool = False
    stochastic_depth: float = 0.0
    patch_dropout: float = 0.0
    pre_logits: int = 0
    head_init: float = 0.0
    head_bias: float | None = 0.0
    remat: str = "none"
    scan: bool = False

    stack = "Transformer"

    def example(self) -> Float[Array, "1 H W c"]:
        """One image, to make parameters for."""
        return jnp.zeros((1, *self.image_shape))

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in images of (height, width).

        Raises:
            InputError: images that do not divide into patches.
        """
        if self.stem is not None:
            image_size = self.stem.grid(image_size, self.patch)
        return patch_grid(image_size, self.patch, self.patch_stride, self.drop_edge)

    @property
    def output_features(self) -> int | None:
        """Features of an image before the head; None for pool "none", which has no such vector."""
        pooled = self.width * (2 if self.pool == "cls_gap" else 1)
        return None if self.pool == "none" else self.pre_logits or pooled

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b H W c"],
        train: bool = False,
        capture: tuple[str, ...] = (),
        kept: Int[Array, "b k"] | None = None,
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """Logits in float32, and a dict of what was on the way.

        Args:
            images: normalised floats.
            train: draw the noise of training; needs rngs={"dropout": key} if any rate is not 0.
            capture: "blocks" for every block's output, "attention" for every block's maps, which
                take the slow path. Nothing else costs anything under jit when it is not used.
            kept: the patches that enter the blocks, in this order, for each image (He 2022, MAE);
                None: all of them, or those that patch dropout leaves.

        Returns:
            logits (b, classes), or (b, n, classes) for pool "none";
            {"root", "stage1"...: (b, h, w, c) maps of a hybrid's ResNet;
            "patches": (b, n, d) patch embeddings; "tokens": (b, t, d) what enters the blocks (or
            the norm before them); "kept": (b, k) indices of the patches that entered, where they
            were not all;
            "unnormalized": (b, t, d) what leaves the blocks; "block00"...: (b, t, d) and
            "attention00"...: (b, heads, t, t), on request;
            "encoded": (b, t, d) after the last norm, and "encoded_patches": (b, n, d) of it;
            "pooled": (b, d), or (b, 2 d) for pool "cls_gap"; "pre_logits": (b, d'); "head" and
            "head_dist": (b, classes), whose mean the logits are, with a distillation token}. The t
            tokens are class, distillation, registers, patches.

        Raises:
            InputError: the images do not fit the patches or the parameters.
        """
        self._check_capture(capture)
        if images.shape[-1] != self.image_shape[-1]:
            raise InputError(
                f"The images have {images.shape[-1]} channels, the model {self.image_shape[-1]}: "
                "set model.channels, or convert the images."
            )
        noise = self._noise_keys(train)
        tokens, out = self._embed(constrain(images), noise, kept)
        return self._encode(tokens, out, noise, capture), out

    @nn.nowrap  # layers keep their names in traces
    def _encode(
        self,
        tokens: Float[Array, "b t d"],
        out: dict[str, Array],
        noise: dict,
        capture: tuple[str, ...],
        seen: Bool[Array, "b t"] | None = None,
    ) -> Float[Array, "b ..."]:
        """Logits of tokens, and into `out` what is on the way; `seen`: which are no filling."""
        encoder = Encoder(
            self.depth,
            self.block,
            self.stochastic_depth,
            self.remat,
            self.scan,
            final_norm=not self.pool_norm,
            name=self.stack,
        )
        x = self.block.norm("pre_norm")(tokens) if self.pre_norm else tokens
        mask = None if seen is None else seen[:, None, None, :]
        encoded, captured = encoder(x, noise["blocks"], capture, mask)
        out |= captured
        out["encoded"] = encoded
        out["encoded_patches"] = encoded[:, self._prefix :]
        return self._classify(encoded, out, seen)

    @staticmethod
    def _check_capture(capture: tuple[str, ...]) -> None:
        for name in capture:
            if name not in CAPTURES:
                raise ValueError(f"capture: {name!r} is not one of {', '.join(CAPTURES)}.")

    @property
    def _prefix(self) -> int:
        """Tokens before the patches."""
        return self._class_tokens + self.registers

    @property
    def _class_tokens(self) -> int:
        """The class and the distillation token."""
        return self.class_token + self.distillation

    def _noise_keys(self, train: bool) -> dict[str, Key[Array, ""] | None]:
        rates = (
            self.block.dropout,
            self.block.attention_dropout,
            self.stochastic_depth,
            self.patch_dropout,
        )
        if not train or not any(rates):
            return {"tokens": None, "patches": None, "blocks": None}
        tokens, patches, blocks = jax.random.split(self.make_rng("dropout"), 3)
        return {"tokens": tokens, "patches": patches, "blocks": blocks}

    def _embed(
        self, images: Float[Array, "b H W c"], noise: dict, kept: Int[Array, "b k"] | None
    ) -> tuple[Float[Array, "b t d"], dict[str, Array]]:
        """Patches with positions, behind the class token and the registers."""
        dtype, batch = self.block.dtype, images.shape[0]
        grid, maps = self.grid(images.shape[1:3]), {}
        if self.stem is not None:
            images, maps = ResNetStem(self.stem, name="stem")(images)
        embedding = PatchEmbedding(
            self.width,
            self.patch,
            self.patch_stride,
            self.patch_bias,
            dtype,
            self.block.init,
            self.drop_edge,
            self.block.grad_dtype,
            name="embedding",
        )
        patches = embedding(images).reshape(batch, -1, self.width)
        out = maps | {"patches": patches}
        with jax.named_scope("positions"):
            patch_rows, class_rows = self._position_rows(grid)
            x = add_bias(patches, patch_rows, self.block.grad_dtype)
        if kept is not None:
            x, out["kept"] = jnp.take_along_axis(x, kept[:, :, None], axis=1), kept
        elif noise["patches"] is not None and self.patch_dropout:
            x, out["kept"] = patch_dropout(x, self.patch_dropout, noise["patches"])
        before = []
        if self.class_token:
            # CLIP's image tower, PyTorch's values otherwise, starts from noise here.
            as_clip = self.block.init == "torch"
            init = nn.initializers.normal(self.width**-0.5) if as_clip else nn.initializers.zeros
            cls = param(self, "cls", init, (1, 1, self.width))
            before.append(cls + class_rows[:1])
        if self.distillation:
            dist = param(self, "dist", nn.initializers.normal(0.02), (1, 1, self.width))
            before.append(dist + class_rows[-1:])
        if self.registers:
            # Not zeros: equal registers would stay equal.
            init = nn.initializers.normal(1e-6)
            before.append(param(self, "registers", init, (1, self.registers, self.width)))
        before = [jnp.broadcast_to(y, (batch, *y.shape[1:])).astype(dtype) for y in before]
        x = constrain(jnp.concatenate([*before, x], axis=1))
        out["tokens"] = x
        return dropout(x, self.block.dropout, noise["tokens"]), out

    def _position_rows(
        self, grid: tuple[int, int]
    ) -> tuple[Float[Array, "n d"], Float[Array, "c d"]]:
        """What is added to the patches on `grid`, and to the class and distillation tokens."""
        class_rows = jnp.zeros((1, self.width))
        if self.positions == "none":
            return class_rows, class_rows
        stored = self.position_grid or grid
        if self.positions == "learned":
            first = self._class_tokens if self.class_position else 0
            shape = (1, first + stored[0] * stored[1], self.width)
            init = nn.initializers.normal(self.position_std)
            table = param(self, "pos_embedding", init, shape)[0]
            if first:
                class_rows, table = table[:first], table[first:]
        else:
            table = jnp.asarray(SINUSOIDS[self.positions](stored, self.width))
        rows = resample(table, stored, grid, self.position_resample, self.position_offset)
        return rows, class_rows

    def _classify(
        self,
        encoded: Float[Array, "b t d"],
        out: dict[str, Array],
        seen: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b ..."]:
        with jax.named_scope("pool"):
            x = pool_tokens(self.pool, encoded, self._prefix, self.block, seen)
            if self.pool_norm:
                x = self.block.norm("pool_norm")(x)
        out["pooled"] = x
        if self.pre_logits:
            layer = Linear(
                self.pre_logits,
                bias=True,
                dtype=self.block.dtype,
                kernel_init=nn.initializers.lecun_normal(),
                name="pre_logits",
            )
            x = nn.tanh(layer(x))
        out["pre_logits"] = x
        if self.classes:
            x = self._head("head")(x)
            if self.distillation and self.distillation_head:
                out["head"], out["head_dist"] = x, self._head("head_dist")(encoded[:, 1])
                x = (x + out["head_dist"]) / 2
        return constrain(x.astype(jnp.float32))

    def _head(self, name: str) -> Linear:
        normal, zeros = nn.initializers.normal(self.head_init), nn.initializers.zeros
        return Linear(
            self.classes,
            bias=self.head_bias is not None,
            dtype=jnp.float32,
            kernel_init=normal if self.head_init else zeros,
            bias_init=nn.initializers.constant(self.head_bias or 0.0),
            name=name,
        )
