"""The section `task` of a run: what is learned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from big_vit_lite.config.durations import Duration
from big_vit_lite.config.model import Natural, Pair, Rate, Section


class Task(Section):
    """What is learned."""

    name: Literal["classification", "contrastive", "coca"] = "classification"
    """The task: one label for each image; images and their captions in one space, with the
    sections text and joint (CLIP, SigLIP, LiT); or that and writing the captions, with the section
    decoder (CoCa)."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy over the classes, or one yes/no for each class (summed over them); for
    sigmoid set model.head_bias to -log(classes). In contrastive tasks the same over the pairs of a
    batch: softmax as in CLIP, sigmoid as in SigLIP, with joint.logit_bias."""
    label_smoothing: Rate = 0.0
    """Share of the target that is spread evenly over all classes, or all pairs of a batch (of the
    softmax loss); 0.1 is usual for long schedules of classification."""
    mixup: float = Field(0.0, ge=0)
    """Images and labels are blended in pairs by a share drawn from Beta(mixup, mixup) (Zhang
    2017); 0: off, 0.2 mild, 0.5 to 0.8 strong, for long schedules."""
    cutmix: float = Field(0.0, ge=0)
    """A box of each image comes from another one; its share of the area is drawn from
    Beta(cutmix, cutmix) and labels are blended by it (Yun 2019); 0: off, 1.0 is usual."""
    cutmix_share: float = Field(0.5, ge=0, le=1)
    """Where mixup and cutmix are both on: share of the steps that use cutmix."""
    progressive: tuple[tuple[Duration, Natural | Pair], ...] = ()
    """(until, side in pixels) pairs: up to that point of the run images are made that small on the
    device before anything else, and after the last keep the size that data.train makes, as in
    (("80%", 112),). Small images cost little, and the position table is resampled."""
    form: Literal["auto", "full", "chunked", "ring"] = "auto"
    """How the matrix of a contrastive loss is walked: as one, by rows in chunks, or by chunks with
    texts going round the devices. Same numbers; the last two need memory in proportion to the
    batch, not to its square. auto: full up to a batch of 4096, ring above."""
    chunk: Natural = 512
    """Rows of the matrix that chunked and ring compute at a time."""
    hardness: float = Field(0.0, ge=0)
    """Contrastive losses: negatives weigh in proportion to exp(hardness * logit) (Robinson 2021);
    0: all alike."""
    semi_hard: float | None = Field(None, gt=0)
    """Contrastive losses: only negatives count that are less similar than the matching pair, by
    less than this margin of cosine similarity (Schroff 2015); none: all count."""
    teacher: str | None = None
    """Contrastive losses: checkpoint directory of a trained pair of towers whose similarities are
    learned beside the data (CLIP-KD, Yang 2024); same texts and tokens. none: no teacher."""
    teacher_weight: float = Field(1.0, gt=0)
    """Factor of the teacher's loss beside the data's."""
    contrastive_weight: float = Field(1.0, ge=0)
    """Task coca: factor of the contrastive loss."""
    caption_weight: float = Field(2.0, ge=0)
    """Task coca: factor of the captions' cross-entropy, per token. The paper has 2."""
