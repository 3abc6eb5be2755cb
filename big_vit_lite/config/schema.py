"""The schema of a run: every name a config may set, its type, its default and its meaning.

It holds what one field can say by itself. What several fields say together (divisibility,
lengths) stands in `rules.py` and, for what models and data must know, in the commands' checks.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from big_vit_lite.config.durations import Duration, Every
from big_vit_lite.config.model import Model, Natural, Pair, Rate, Section
from big_vit_lite.config.towers import Decoder, Joint, Text


def _check_regexes(rules: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f'"{pattern}" is no regular expression: {error}') from None
    return rules


def _check_renames(rules: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for pattern, replacement in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f'"{pattern}" is no regular expression: {error}') from None
        groups = re.compile(pattern).groups
        for group in re.findall(r"\\(\d+)", replacement):
            if int(group) > groups:
                raise ValueError(f'"{replacement}" wants group {group}, "{pattern}" has {groups}')
    return rules


def _check_metric(key: str) -> str:
    if not re.fullmatch(r"[^/\s]+(/[^/\s]+)+", key):
        raise ValueError('wants the name of a metric, such as "val/top1"')
    return key


Rules = Annotated[tuple[tuple[str, float], ...], AfterValidator(_check_regexes)]
Renames = Annotated[tuple[tuple[str, str], ...], AfterValidator(_check_renames)]
Metric = Annotated[str, AfterValidator(_check_metric)]


class Task(Section):
    """What is learned."""

    name: Literal["classification"] = "classification"
    """The task: one label for each image."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy over the classes, or one yes/no for each class (summed over them); for
    sigmoid set model.head_bias to -log(classes)."""
    label_smoothing: Rate = 0.0
    """Share of the target that is spread evenly over all classes; 0.1 is usual for long
    schedules."""
    mixup: float = Field(0.0, ge=0)
    """Images and labels are blended in pairs by a share drawn from Beta(mixup, mixup) (Zhang
    2017); 0: off, 0.2 mild, 0.5 to 0.8 strong, for long schedules."""
    cutmix: float = Field(0.0, ge=0)
    """A box of each image comes from another one; its share of the area is drawn from
    Beta(cutmix, cutmix) and labels are blended by it (Yun 2019); 0: off, 1.0 is usual."""
    cutmix_share: float = Field(0.5, ge=0, le=1)
    """Where mixup and cutmix are both on: share of the steps that use cutmix."""


class Split(Section):
    """Which examples, and how they become images."""

    source: Literal[
        "arrayrecord", "digits", "folder", "parquet", "synthetic", "table", "tar", "tfds"
    ]
    """Where examples come from: scikit-learn's 1,797 handwritten digits, a folder with one
    sub-folder a class, Parquet files as dataset hubs ship them, tar files in WebDataset's layout,
    a table (CSV, TSV or JSON lines) of image files, ArrayRecord shards, a data set prepared by
    TensorFlow Datasets, or noise made on the spot."""
    path: str | None = None
    """Files or the folder that holds them; needed for all but digits and synthetic. A path or an
    fsspec URL such as gs://bucket/folder; tar also takes patterns such as
    "DIR/train-{00000..00099}.tar"."""
    split: str | None = None
    """Named split such as "train" or "test": files SPLIT-* of sources made of shards, a
    sub-folder of a folder source; none: everything there."""
    part: str = ""
    """Which of the split's examples: all (""), "[:99%]", "[1415:]", or a seeded stratified part
    "held_out(20%, seed=0)" and all but it "rest(20%, seed=0)"; "|" chains."""
    transform: str
    """From the stored example to the image, read left to right, such as
    "decode|random_resized_crop(224)|flip|randaugment(2,10)"."""
    text: str = ""
    """From a caption to tokens, such as "lower|tokenize('bytes')|truncate(64)|pad(64)"; captions
    are read only where it is given. Batches then hold "text"."""
    image_key: str | None = Field(None, min_length=1)
    """Column, feature or file ending that holds the image; none: image for parquet, tfds and
    arrayrecord, path for table, any of jpg, jpeg, png and webp for tar."""
    label_key: str | None = Field(None, min_length=1)
    """The same for the label; none: label, for tar cls. Read where there is no text, or where
    it is given."""
    caption_key: str | None = Field(None, min_length=1)
    """The same for the caption or the list of captions; none: caption, for tar txt. A field of a
    tar's json files is written json.FIELD."""
    captions: Literal["random", "each", "first"] = "random"
    """Which of several captions of one image: one at random, each in turn from epoch to epoch,
    or always the first."""
    class_names: str | None = None
    """Text file with one class name a line, in the order of the label numbers, for sources that
    hold only numbers."""
    sampler: Literal["shuffle", "stratified", "balanced", "oversample", "undersample"] = "shuffle"
    """Order of training examples: shuffled; with each class spread evenly over time; with each
    class equally often; with small classes repeated up to the largest; with large classes cut
    to the smallest (another cut in every epoch)."""
    repeats: Natural = 1
    """How often each drawn example stands in the stream, augmented anew each time (repeated
    augmentation, Hoffer 2019; DeiT: 3). An epoch stays as many images long."""
    weight: float = Field(1.0, gt=0)
    """Share of this split in a mixture, relative to the others' weights; see data.mix."""
    examples: Natural = 1024
    """Number of examples; for synthetic."""
    classes: Natural = 10
    """Number of classes; for synthetic."""
    image_size: Pair = (32, 32)
    """(height, width) in pixels; for synthetic."""
    channels: Natural = 3
    """Channels of the images; for synthetic."""


class Data(Section):
    """Batches: how many images, from where, normalised how."""

    batch_size: Natural
    """Images in one step over all devices and hosts together. Must divide by mesh.data x
    mesh.fsdp and by optim.accumulate. Changing it usually asks for another optim.lr."""
    train: Split
    """The examples that train, shuffled anew in every epoch."""
    mix: dict[str, Split] = Field(default_factory=dict)
    """Further examples mixed into data.train: name -> split. Each has its exact share by weight
    at any time, data.train's weight included; an epoch is one pass over data.train."""
    val: Split | None = None
    """The examples that evals read unless they name others."""
    mean: tuple[float, ...] = Field((0.5,), min_length=1)
    """Subtracted from pixels scaled to [0, 1]; one number, or one for each channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.5,), min_length=1)
    """Divides them after that; 0.5 with mean 0.5 gives [-1, 1]. Loaded weights want their own."""
    skip_limit: int = Field(100, ge=0)
    """Most different examples that may be left out because they cannot be read or transformed.
    Each is logged by name and replaced by another in training, masked in evaluation. 0: the
    first one ends the run."""
    threads: Natural | None = None
    """Threads that decode and augment, in each worker; none: one for each core. Never changes a
    batch."""
    workers: int = Field(0, ge=0)
    """Processes that make batches; 0: threads of this process, which is as fast up to some ten
    cores. Never changes a batch."""
    prefetch_mib: Natural = 512
    """Memory in MiB for batches prepared ahead. Raise it where the log shows that the
    device waits for data; never changes a batch."""


class Eval(Section):
    """One evaluation, run every so often and at the end."""

    type: Literal["classification"] = "classification"
    """What is measured: top-1, top-5 and loss."""
    data: Split | None = None
    """The examples to evaluate; none: data.val."""
    every: Every = "1 epochs"
    """How often; the end of the run is always evaluated."""
    batch_size: Natural | None = None
    """Images in one evaluation step over all devices; none: data.batch_size. Never changes the
    result: each example counts exactly once."""
    predictions: bool = False
    """Whether each example's name, label, loss and best five classes are written to a file, too."""


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
    """The same for the learning rate: 0 freezes a part, smaller factors for lower layers
    fine-tune gently."""
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


class Mesh(Section):
    """How devices are arranged. The product of the first five is the number of devices."""

    data: int = -1
    """Devices over which only the batch is split. -1: all that are left (for one of the five
    at most)."""
    fsdp: int = 1
    """Devices over which the batch, parameters and optimiser state are split. Raise it when the
    state does not fit on one device."""
    tensor: int = 1
    """Devices over which heads, MLPs, embedded features and classes are split, for models too
    wide for fsdp alone; must divide the heads, and stays within one host."""
    sequence: int = 1
    """Devices over which the tokens of each image are split, for images of so many that one
    device cannot hold a single image's activations; stays within one host."""
    stage: int = 1
    """Devices over which the blocks are split by depth, as a pipeline; must divide the depth. For
    models too large for fsdp on a slow network: only tokens pass from stage to stage."""
    microbatches: Natural | None = None
    """Parts of a batch that follow each other through the stages, which stand idle for
    (stage - 1) / (microbatches + stage - 1) of the time; none: 4 for each stage."""


class Checkpoint(Section):
    """What is saved in WORKDIR/checkpoints, from which a stopped run goes on."""

    every: Every | None = None
    """How often the state is saved; none: only at the end, and when stopped by a signal."""
    keep: Natural = 2
    """How many of the latest checkpoints stay on disk."""
    keep_every: Every | None = None
    """Checkpoints at multiples of this stay for good; none: none of them."""
    keep_best: Metric | None = None
    """Metric by which the best checkpoint stays too, such as "val/top1"; none: by none."""
    best_mode: Literal["max", "min"] = "max"
    """Whether the best is the highest (accuracy) or the lowest (loss)."""


class Report(Section):
    """What is written while training."""

    every: Every = 50
    """How often a row of training metrics is written; step 1 and the last always are."""
    tensorboard: bool = True
    """Whether metrics are also written for TensorBoard, in WORKDIR/tensorboard."""
    wandb: str | None = None
    """Weights & Biases project to log to, too (needs the wandb extra); none: no."""
    profile: tuple[Annotated[int, Field(ge=0)], Natural] | None = None
    """(first, end): steps to trace into WORKDIR/profile, to be opened in Perfetto or XProf;
    after the first few, which compile. none: no trace."""
    watchdog_s: float | None = Field(300.0, gt=0)
    """Seconds after which a batch, a step or a save that does not come is told of, with the stacks
    of all threads; an evaluation has ten times as long. The first step, which compiles, takes as
    long as it takes. none: nothing is told."""


class Run(Section):
    """One training run, whole."""

    name: str = ""
    """Name of the run, for its folder under runs/ and for Weights & Biases."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Fixes initial weights, order of the data, augmentation and dropout: the same seed gives
    the same run."""
    steps: Natural | None = None
    """Length in steps. Exactly one of steps, epochs and examples is set."""
    epochs: float | None = Field(None, gt=0)
    """Length in passes over data.train, which may be fractional; rounded up to a step."""
    examples: Natural | None = None
    """Length in training images seen; rounded up to a step."""
    init: str | None = None
    """Checkpoint directory, or file of published weights (.npz, .safetensors, torch's; or their
    folder), whose parameters start the run: all of them, not their averages, the position table
    resampled and patches resized to this run's. For another model or other classes see init_rules.
    The optimiser starts anew; to go on with a stopped run give its --workdir instead."""
    init_rules: Renames = ()
    """(regular expression, replacement) pairs over the names of init's parameters; the first that
    is found renames. The replacement "skip" leaves such parameters as they are drawn, and those of
    the checkpoint unused: (("^head/", "skip"),) for other classes. What fits nowhere is refused."""
    model: Model = Field(default_factory=Model)
    """The image tower: a Vision Transformer, or one of CLIP's ResNets."""
    text: Text | None = None
    """The text tower, for tasks that learn from captions; none: no such tower."""
    joint: Joint = Field(default_factory=Joint)
    """How image and text tower meet; without effect where there is no text tower."""
    decoder: Decoder | None = None
    """A caption decoder, which makes the two towers CoCa; none: no captions."""
    task: Task = Field(default_factory=Task)
    """What is learned."""
    data: Data
    """What it is learned from."""
    optim: Optim = Field(default_factory=Optim)
    """How it is learned."""
    mesh: Mesh = Field(default_factory=Mesh)
    """On which devices."""
    evals: dict[str, Eval] = Field(default_factory=dict)
    """What is measured meanwhile: name -> evaluation; its metrics are called "NAME/top1"."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """What is saved."""
    report: Report = Field(default_factory=Report)
    """What is logged."""
    deterministic: bool = False
    """Bitwise repeatable on GPU, too, some percent slower. CPU and TPU always are."""

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "the stored config") -> Run:
        """Reads what `to_json` wrote. Fields that are younger than the text get their defaults.

        Raises:
            InputError: one line for each fault; `where` names the text's origin in them.
        """
        from big_vit_lite.config.load import run_from_json

        return run_from_json(text, where)

    def to_json(self) -> str:
        """The whole run, defaults included, as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The whole run as nested plain dicts; tuples stay tuples."""
        return self.model_dump()
