"""The section `optim` of a run: from gradients to new parameters."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from big_vit_lite.config.durations import Duration, Every
from big_vit_lite.config.model import Natural, Rate, Section


def _check_regexes(rules: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f'"{pattern}" is no regular expression: {error}') from None
    return rules


def _check_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return pattern


Regex = Annotated[str, AfterValidator(_check_regex)]
Rules = Annotated[tuple[tuple[str, float], ...], AfterValidator(_check_regexes)]


class Part(Section):
    """How some of the parameters are learned where that differs from the rest: one tower, say."""

    match: Regex
    """Regular expression, found in the names of the parameters: "^img/" is the image tower. The
    first part that fits a name counts."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; none: optim.lr."""
    schedule: Literal["cosine", "linear", "rsqrt", "constant"] | None = None
    """As optim.schedule; none: that."""
    warmup: Duration | None = None
    """As optim.warmup, counted from `begin`; none: that."""
    cooldown: Duration | None = None
    """As optim.cooldown; none: that."""
    end_lr: float | None = Field(None, ge=0, le=1)
    """As optim.end_lr; none: that."""
    begin: Duration = 0
    """These parameters rest until then: a tower that is unlocked later."""


class Optim(Section):
    """From gradients to new parameters."""

    name: Literal["adamw", "sgd", "muon"] = "adamw"
    """Adam with decoupled weight decay, gradient descent with momentum, or Muon (orthogonal
    momentum, Jordan 2024) for the matrices in blocks with adamw for the rest."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate, reached after the warm-up. ViTs with adamw: 1e-3 at batch 1024 to
    4096, 3e-4 to 2e-3 for small models; the first field to tune."""
    schedule: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    """The learning rate between warm-up and cooldown: down to end_lr by a half cosine or a
    line, as 1/sqrt(step), or constant. The last two let a run be prolonged."""
    warmup: Duration = 0
    """Linear rise from 0 to lr at the start. 5% or 10,000 steps are usual for ViTs."""
    cooldown: Duration = 0
    """Last part of the run, in which the learning rate falls linearly to end_lr times what the
    schedule has; 10 to 20% is usual for rsqrt and constant."""
    rsqrt_timescale: Every = 10000
    """Steps after which the rsqrt schedule begins to fall in earnest."""
    end_lr: float = Field(0.0, ge=0, le=1)
    """Learning rate at the end of the run, as a fraction of lr."""
    weight_decay: float = Field(0.0, ge=0)
    """Each step shrinks the chosen parameters by lr x weight_decay of themselves. 0.05 to 0.3
    for ViTs; big_vision's wd is this times lr."""
    decay_rules: Rules = (("kernel$", 1.0), (".*", 0.0))
    """(regular expression, factor) pairs over parameter names such as
    "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel": the first that is found multiplies
    weight_decay. By default kernels decay, and biases, norms and embeddings do not."""
    lr_rules: Rules = ((".*", 1.0),)
    """The same for the learning rate: smaller factors for lower layers fine-tune gently, and 0
    locks a part: it gets no gradient, no decay and no moments. (("^img/", 0.0), (".*", 1.0)) is
    LiT; "^img/(embedding|pos_embedding|cls|Transformer/encoderblock_[0-8]/)" locks all but the last
    three blocks of a B tower."""
    parts: dict[str, Part] = Field(default_factory=dict)
    """name -> parameters with a schedule of their own, such as the towers of CLIP; lr_rules and
    decay_rules multiply these, too."""
    b1: Rate = 0.9
    """adamw (and what muon leaves to it): decay of the running mean of the gradient."""
    b2: Rate = 0.999
    """adamw: decay of the running mean of its square; 0.95 calms large batches and large
    models."""
    eps: float = Field(1e-8, gt=0)
    """adamw: added to the root of that mean. 1e-6 calms sparse gradients."""
    momentum: Rate = 0.9
    """sgd and muon: decay of the running sum of gradients; 0.95 is usual for muon."""
    nesterov: bool = False
    """sgd: whether momentum looks one step ahead."""
    mu_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the first moment is kept. bfloat16 saves 2 bytes a parameter at no known
    loss for ViTs."""
    clip_norm: float | None = Field(None, gt=0)
    """Longest gradient, over all parameters together; longer ones are scaled down to it. 1.0 is
    usual for ViTs; none: no limit."""
    offload: bool = False
    """Whether the optimiser's state lies in the host's memory between updates: less memory on the
    device for two copies in every step. Sharding it over more devices (mesh.fsdp) is faster."""
    grad_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type in which gradients leave the matrix products, and in which devices sum them; auto: that
    of the products, model.dtype. float32 is exact and twice the bytes between devices."""
    accumulate: Natural = 1
    """Parts into which a batch is cut, computed one after the other: less memory, the gradient
    of the whole batch. Must divide data.batch_size."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay in a step of the averaged weights, which are evaluated beside the raw ones: 0.999
    averages over about 1,000 steps; none: no average, less memory."""
    loss_scale: Literal["auto", "dynamic", "none"] = "auto"
    """Whether gradients are computed of a multiple of the loss, so that small ones do not vanish
    in float16: 2^15 at first, half after an overflow, whose update is left out, and twice after
    2000 steps without one. auto: where model.dtype is float16."""
    skip_nonfinite: int = Field(0, ge=0)
    """Most updates that may be left out in the run because the loss or the gradient is NaN or
    infinite. Each is logged with its examples; overflows of the loss scale do not count. 0: the
    first one ends the run."""
