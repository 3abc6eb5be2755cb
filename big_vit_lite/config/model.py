"""The section `model` of a run: which image tower, and how it is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Natural = Annotated[int, Field(ge=1)]
Pair = tuple[Natural, Natural]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Part of a run: frozen, without unknown names, every field with its meaning."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and "bool" not in str(annotation):
            raise PydanticCustomError("not_a_bool", "true and false are no values for this field")
        return value


class Model(Section):
    """Sizes, tokens, positions, regularisation and numerics of the Vision Transformer."""

    variant: str = Field("B/16", min_length=1)
    """Size and patch, as in the papers: mu, Ti, S, M, B, L, So400m, H, g, g-opt, G, G-opt or e,
    a slash, the patch's side in pixels. The four fields below override its sizes. Or a hybrid, with
    a ResNet before its blocks: R+Ti/16, R26+S/32, R50+B/16, R50+L/32 and the like. Or one of CLIP's
    ResNets, for task contrastive: RN50, RN101, RN50x4, RN50x16, RN50x64."""
    width: Natural | None = None
    """Features of a token; none: the variant's. Must divide by heads. Parameters and time grow
    with its square."""
    depth: Natural | None = None
    """Number of blocks; none: the variant's. Parameters and time grow with it."""
    heads: Natural | None = None
    """Attention heads of a block, width/heads features each; none: the variant's."""
    mlp_dim: Natural | None = None
    """Hidden features of a block's MLP; none: the variant's (mostly 4 x width)."""
    stages: tuple[Natural, ...] | None = None
    """Blocks of each stage of a ResNet, four of CLIP's, or of a hybrid's; none: the variant's. For
    ResNets, width is the stem's, which grows to 32 times of it, and heads are the attention
    pool's."""
    stem_width: Natural | None = None
    """Features of the first convolution of a hybrid's ResNet, a multiple of 32; none: 64."""
    stem_norm_eps: float = Field(1e-6, gt=0)
    """Added to the variance in the group norms of a hybrid's ResNet: 1e-6 in vision_transformer,
    1e-5 in timm. Must match loaded weights."""
    stem_standardize: Literal["deviation", "variance"] = "deviation"
    """What standardised kernels of a hybrid's ResNet are divided by: their deviation + 1e-5
    (vision_transformer), or the root of their variance + 1e-8 (timm). Must match loaded weights."""
    batch_norm: Literal["frozen", "batch"] = "frozen"
    """Statistics of a ResNet's norms while training: the stored ones, which then never change, or
    the batch's, of all devices together. Evaluation takes the stored ones."""
    patch: Natural | Pair | None = None
    """Patch side in pixels, or (height, width); none: the variant's. Halving it makes four
    times the tokens: finer, and four times the time or more. Of hybrids, in positions of the
    ResNet's maps, 4 pixels and twice as many with each stage behind the first."""
    patch_stride: Natural | Pair | None = None
    """Pixels from patch to patch; none: the patch itself. Smaller makes patches overlap and
    tokens more."""
    patch_bias: bool = True
    """Bias of the patch embedding; false for CLIP's and other pre-norm models."""
    drop_edge: bool = False
    """Whether pixels at the right and lower edge that fill no patch are left out; else such images
    are refused. For SigLIP's So400m/14, which sees 378 of its images' 384 pixels."""
    image_size: Natural | Pair | None = None
    """Side in pixels, or (height, width), of the images the model is built for; none: what
    data.train makes, which it must equal otherwise. Evaluations may see other sizes."""
    max_patches: Natural | None = None
    """Images of any aspect ratio, as at most so many patches each (NaFlex; SigLIP 2, Tschannen
    2025), for published weights of that kind; none: images of one size, as training has them."""
    channels: Natural = 3
    """Channels of the image: 1 for grey, 3 for colour, more for other sensors."""
    classes: Natural | None = None
    """Outputs of the head; none: the number of class names of data.train. Set it to keep a head
    that has more."""
    pool: Literal["cls", "gap", "cls_gap", "map", "none"] = "cls"
    """What becomes the image's features: the class token, the mean of the patch tokens, both side
    by side (twice the width, as DINOv2's classifiers have them), an attention pool with a learned
    query, or all tokens as they are."""
    pool_norm: bool = False
    """For pool gap: the last norm after the mean instead of before it, as models of timm with
    fc_norm and MAE's fine-tuned ones have it."""
    class_token: bool | None = None
    """Whether a class token is prepended; none: only for pool cls and cls_gap."""
    positions: Literal["learned", "sincos2d", "sincos2d_mae", "none"] = "learned"
    """Position embedding: a trained table; fixed sines in MoCo v3's order (big_vision) or in
    MAE's; or none. Sines train a little faster on short schedules."""
    class_position: bool = True
    """Whether the position table has a row for the class token (N+1 rows, as ViT, AugReg, DeiT,
    CLIP) or not (N rows, as big_vision, SigLIP). Without effect without the token."""
    position_std: float | None = Field(None, ge=0)
    """Standard deviation of the learned table at the start; none: 0.02, or 1/sqrt(width) for init
    clip. Small models on small images want far more, up to 0.5."""
    position_grid: Pair | None = None
    """(rows, columns) of the stored position table; none: the image's own grid. Another grid is
    resampled in every step: for models made for another image size."""
    position_resample: Literal[
        "cubic", "cubic_torch", "bilinear", "bilinear_antialiased", "align_corners"
    ] = "cubic"
    """How the table is resampled: cubic antialiased (timm, open_clip), cubic_torch with a=-0.75
    not antialiased (DINOv2, transformers), bilinear, the same antialiased (SigLIP 2 of variable
    shape), or bilinear with corners aligned (big_vision)."""
    position_offset: float = Field(0.0, ge=0)
    """Added to the target grid's side before the scale is taken; DINOv2's first models used
    0.1. Only for equality with published weights."""
    registers: int = Field(0, ge=0)
    """Extra learned tokens without position (Darcet 2023), ignored by pooling; 4 make attention
    maps clean in large models."""
    layer_scale: float | None = None
    """Start of a learned factor on each feature of both branches of a block (Touvron 2021),
    such as 1e-5 or 1.0; none: no such factor. Helps deep models to train."""
    distillation: bool = False
    """A second class token with a head of its own, which learns from a teacher (DeiT, Touvron
    2021); the logits are the mean of both heads'."""
    distillation_head: bool = True
    """Whether that token has its head; false for weights of DeiT with the class token's alone."""
    pre_norm: bool = False
    """Layer norm of the tokens before the first block, as in CLIP."""
    activation: Literal["erf", "tanh", "quick", "swiglu"] = "tanh"
    """The GELU of the MLPs: exact (timm, DeiT, DINOv2, MAE), tanh approximation (AugReg,
    big_vision, SigLIP), or x*sigmoid(1.702x) (OpenAI's CLIP); or swiglu, a gate of as many
    features again (DINOv2 g/14). Must match loaded weights."""
    init: Literal["xavier", "clip"] = "xavier"
    """Initial values of the blocks, the patch embedding and the class token: AugReg's and
    big_vision's, or those of CLIP's image tower."""
    norm_eps: float = Field(1e-6, gt=0)
    """Added to the variance in every layer norm: 1e-6 for most, 1e-5 for CLIP, 1e-12 for
    transformers' ViT. Must match loaded weights."""
    bias: bool = True
    """Biases of the attention's output, the MLPs and the norms."""
    qkv_bias: bool = True
    """Biases of the query, key and value projections."""
    dropout: Rate = 0.0
    """Share of features set to zero after the embedding and in both branches of every block
    while training. 0.1 was the first ViT's; strong augmentation made it needless."""
    attention_dropout: Rate = 0.0
    """Share of attention weights set to zero while training. More than 0 takes the
    slower reference attention."""
    stochastic_depth: Rate = 0.0
    """Chance that the last block is skipped, for each image, while training; it grows linearly
    over depth from 0. 0.1 to 0.5 regularise large models on long schedules."""
    patch_dropout: Rate = 0.0
    """Share of patch tokens left out of training images at random (Li 2023). Half of them
    nearly halves the time of a step."""
    pre_logits: bool | Natural = False
    """A dense layer with tanh before the head: true for as many features as the width, or their
    number. Part of the published from-scratch ImageNet recipes."""
    head_init: float = Field(0.0, ge=0)
    """Standard deviation of the head's kernel at the start; 0 makes all logits equal at first,
    which is the published choice."""
    head_bias: float | None = 0.0
    """Start of the head's bias; none: no bias. For sigmoid loss, -log(classes) makes the first
    steps calm: -6.9 for 1000 classes."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the matrix products; auto: bfloat16 on GPU and TPU, float32 on CPU. Parameters,
    logits and losses are float32 in any case."""
    remat: Literal["auto", "none", "dots", "full"] = "auto"
    """What the backward pass computes anew instead of keeping: nothing, all but matrix
    products, or everything inside a block. Less memory for up to a third more time."""
    scan: bool | None = None
    """Blocks as one scanned loop, which compiles in a time independent of depth; none: on
    accelerators only, since it costs about a tenth of a step on CPU. Same numbers."""
    attention: Literal["auto", "reference", "xla", "cudnn"] = "auto"
    """Which attention computes; auto: the fastest that the device has. reference also gives the
    attention maps. cudnn, auto's choice on GPUs in half types, leaves to xla what has a mask of its
    own, as of padding, or an odd number of tokens that is not causal."""

    @property
    def has_class_token(self) -> bool:
        """Whether a class token is prepended."""
        return self.pool in ("cls", "cls_gap") if self.class_token is None else self.class_token
