"""The sections `text`, `joint` and `decoder` of a run: the text tower, and what joins the two; and
`reconstruction`, which describes the decoder of masked autoencoders that are loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from big_vit_lite.config.model import Natural, Rate, Section


class Text(Section):
    """Sizes, tokens, pooling and numerics of the text Transformer."""

    variant: str = Field("M", min_length=1)
    """Size, by the names that the image tower has: M is the text tower of CLIP B/32 and B/16
    (512 features), B of CLIP L/14 and SigLIP B, L of CLIP H/14 and SigLIP L. The four fields
    below override its sizes."""
    width: Natural | None = None
    """Features of a token; none: the variant's. Must divide by heads."""
    depth: Natural | None = None
    """Number of blocks; none: the variant's."""
    heads: Natural | None = None
    """Attention heads of a block, width/heads features each; none: the variant's."""
    mlp_dim: Natural | None = None
    """Hidden features of a block's MLP; none: the variant's (mostly 4 x width)."""
    vocabulary: Natural = 49408
    """Rows of the token table: at least the tokenizer's. 49408 for CLIP, 32000 for SigLIP, 256000
    for SigLIP 2."""
    length: Natural | None = None
    """Tokens of a text, the rows of the position table; none: what data.train.text makes. Shorter
    texts may come, longer ones are refused. CLIP has 77, SigLIP 64."""
    causal: bool = True
    """Whether a token sees only itself and those before it, as in CLIP; SigLIP sees all."""
    pool: Literal["end", "last", "cls", "gap", "map"] = "end"
    """What becomes the text's features: the end token (CLIP), the last position with padding
    counted (SigLIP), a learned token behind the text (CoCa), the mean of all tokens, or an
    attention pool with a learned query."""
    end_id: int | None = Field(None, ge=0)
    """For pool end: the end token's id, whose first occurrence counts; none: the largest id of
    the text, which is right where the end token is the last of the vocabulary, as in CLIP."""
    pad_id: int | None = Field(None, ge=0)
    """Id of padding, which no token then looks at and no pool counts; none: padding is like any
    token. CLIP and SigLIP want none, CoCa 0."""
    position_std: float | None = Field(None, ge=0)
    """Standard deviation of the position table at the start; none: 0.01 for init clip,
    1/sqrt(width) for xavier."""
    activation: Literal["erf", "tanh", "quick"] = "tanh"
    """The GELU of the MLPs: exact (open_clip), tanh approximation (big_vision, SigLIP), or
    x*sigmoid(1.702x) (OpenAI's CLIP). Must match loaded weights."""
    norm_eps: float = Field(1e-6, gt=0)
    """Added to the variance in every layer norm: 1e-6 for SigLIP, 1e-5 for CLIP. Must match
    loaded weights."""
    init: Literal["xavier", "clip"] = "xavier"
    """Initial values: big_vision's, which SigLIP has, or CLIP's, which shrink what ends a branch
    as depth grows."""
    dropout: Rate = 0.0
    """Share of features set to zero after the embedding and in both branches of every block
    while training."""
    stochastic_depth: Rate = 0.0
    """Chance that the last block is skipped, for each text, while training; it grows linearly
    over depth from 0."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the matrix products, as in model.dtype."""
    remat: Literal["auto", "none", "dots", "full"] = "auto"
    """What the backward pass computes anew instead of keeping, as in model.remat."""
    scan: bool | None = None
    """Blocks as one scanned loop, as in model.scan. Same numbers."""
    attention: Literal["auto", "reference", "xla", "cudnn"] = "auto"
    """Which attention computes, as in model.attention."""


class Decoder(Section):
    """The caption decoder of CoCa, as wide as the text tower; without dropout, whatever the text
    tower has."""

    depth: Natural | None = None
    """Number of blocks, each with a look at the image; none: the text tower's."""
    queries: Natural = 256
    """Learned queries that pool the image: one for its features, the others for the decoder."""
    pool_heads: Natural = 8
    """Attention heads of that pool; must divide joint.features."""
    pad_shift: int = Field(0, ge=0, le=1)
    """Places by which the text tower's mask of padding is moved to the right: 1 for open_clip's
    published weights, which were trained with that slip."""


class Reconstruction(Section):
    """The decoder that makes the image tower a masked autoencoder (MAE, He 2022)."""

    width: Natural = 512
    """Features of a token in the decoder. Must divide by heads."""
    depth: Natural = 8
    """Number of its blocks. One is enough for fine-tuning, linear probes want eight."""
    heads: Natural = 16
    """Attention heads of a block."""
    mlp_dim: Natural = 2048
    """Hidden features of a block's MLP."""
    positions: Literal["learned", "sincos2d", "sincos2d_mae"] = "sincos2d_mae"
    """Position embedding of the decoder: fixed sines, or a table with a row for the class token,
    as files of published weights hold it."""
    position_resample: Literal["cubic", "cubic_torch", "bilinear", "sequence"] = "cubic_torch"
    """How positions are resampled for images of another size: on their grid, or as a sequence of
    patches, row after row, as transformers does it."""
    mask_ratio: Rate = 0.75
    """Share of the patches that are hidden from the encoder and predicted by the decoder."""
    normalize: bool = False
    """Whether each patch's pixels are predicted in units of their own spread (norm_pix_loss),
    which makes better features; else as they are."""


class Joint(Section):
    """The space in which images and texts are compared."""

    features: Natural | None = None
    """Size of the space; none: the width of the image tower. 512 for CLIP B/32 and B/16, 768 for
    CLIP L/14."""
    projections: Literal["both", "text", "image", "none"] = "both"
    """Which towers end in a linear map to the space: both (CLIP), text only (SigLIP), image only,
    or none. A tower without one must have the space's size."""
    projection_bias: bool = False
    """Whether these maps have a bias: SigLIP's has, CLIP's have not. A ResNet's, which is part of
    its pool, has one in any case."""
    logit_scale: float = Field(1 / 0.07, gt=0)
    """Start of the learned factor on cosine similarities, 1/temperature: 14.3 for CLIP, 10 for
    SigLIP."""
    max_logit_scale: float | None = Field(None, gt=0)
    """The factor is never larger than this: 100 for training CLIP; none: any, which SigLIP's
    weights want."""
    logit_bias: float | None = None
    """Start of a learned number added to the scaled similarities; -10 for SigLIP; none: no such
    number."""
