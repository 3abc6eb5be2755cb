"""The schema of a run: every name a config may set, its type, its default and its meaning.

It holds what one field can say by itself. What several fields say together (divisibility,
lengths) stands in `rules.py` and its neighbours and, for what models and data must know, in the
commands' checks.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from big_vit_lite.config.durations import Every
from big_vit_lite.config.model import Model, Natural, Pair, Section
from big_vit_lite.config.optim import Optim
from big_vit_lite.config.task import Task
from big_vit_lite.config.towers import Decoder, Joint, Text


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


Renames = Annotated[tuple[tuple[str, str], ...], AfterValidator(_check_renames)]
Metric = Annotated[str, AfterValidator(_check_metric)]


class Split(Section):
    """Which examples, and how they become images."""

    source: Literal[
        "arrayrecord",
        "digit_pairs",
        "digits",
        "folder",
        "parquet",
        "synthetic",
        "table",
        "tar",
        "tfds",
    ]
    """Where examples come from: scikit-learn's 1,797 handwritten digits, pairs of them with
    captions, a folder with one sub-folder a class, Parquet files as dataset hubs ship them, tar
    files in WebDataset's layout, a table (CSV, TSV or JSON lines) of image files, ArrayRecord
    shards, a data set prepared by TensorFlow Datasets, or noise made on the spot."""
    path: str | None = None
    """Files or the folder that holds them; needed for all but digits, digit_pairs and
    synthetic. A path or an fsspec URL such as gs://bucket/folder; tar also takes patterns such as
    "DIR/train-{00000..00099}.tar"."""
    split: str | None = None
    """Named split such as "train" or "test": files SPLIT-* of sources made of shards, a
    sub-folder of a folder source; of digit_pairs: train, val, unseen, tune_train, tune or
    tune_unseen. none: everything there, for digit_pairs train."""
    part: str = ""
    """Which of the split's examples: all (""), "[:99%]", "[1415:]", or a seeded stratified part
    "held_out(20%, seed=0)" and all but it "rest(20%, seed=0)"; "|" chains."""
    transform: str
    """From the stored example to the image, read left to right, such as
    "decode|random_resized_crop(224)|flip|randaugment(2,10)"."""
    text: str = ""
    """From a caption to tokens, such as "lower|tokenize('bytes')|truncate(64)|pad(64)"; captions
    are read only where it is given. Batches then hold "text". Evaluations take data.train's."""
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
    augmentation, Hoffer 2019; DeiT: 3). An epoch stays as many images long. Not for pairs, which
    would be wrong answers to themselves."""
    weight: float = Field(1.0, gt=0)
    """Share of this split in a mixture, relative to the others' weights; see data.mix."""
    examples: Natural = 1024
    """Number of examples; for synthetic and digit_pairs."""
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

    type: Literal["classification", "zero_shot", "retrieval", "choices", "captions"] = (
        "classification"
    )
    """What is measured: top-1, top-5 and loss of a classifier; top-1 and top-5 where classes are
    only described in words (zero_shot); how well images and captions find each other (retrieval);
    whether the right one of some captions fits best (choices); or how well the captions are
    predicted, word by word (captions, of task coca). All but the first want a text tower; see
    docs/evaluation.md."""
    data: Split | None = None
    """The examples to evaluate; none: data.val. Not for choices, whose file names the images.
    Captions become tokens as in training, whatever its text says, and retrieval and captions read
    all of them."""
    every: Every = "1 epochs"
    """How often; the end of the run is always evaluated."""
    batch_size: Natural | None = None
    """Images in one evaluation step over all devices; none: data.batch_size. Never changes the
    result: each example counts exactly once."""
    predictions: bool = False
    """Whether each example's name, label, loss and best five classes are written to a file, too;
    of retrieval the ranks, of choices the scores, of captions what the model writes. zero_shot
    writes a second file, by class."""
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("a photo of a {}.",), min_length=1
    )
    """zero_shot: what is said of each class, with {} for its name; features of several are
    averaged. Each entry is a text with {}, a published set by name ("openai": the 80 for ImageNet,
    "simple": 7 of them, "food101", "cifar10" and so on), or a file with one a line."""
    class_names: str | None = Field(None, min_length=1)
    """zero_shot: how classes are called in prompts: a published set by name ("imagenet", "pets" and
    so on) or a text file with one a line, in the order of the labels; none: the data's own names,
    an underscore read as a blank."""
    file: str | None = Field(None, min_length=1)
    """choices: JSON file of the choices, as published for Winoground and SugarCrepe or as
    docs/evaluation.md says, or a folder of such files, each of which is a category."""
    images: str | None = Field(None, min_length=1)
    """choices: folder of the images that the file names; none: the file's own."""
    transform: str | None = None
    """choices: from the stored image to the image, as in a split; none: that of data.val."""
    beams: Natural = 1
    """captions: texts that are followed at once while one is written, of which the likeliest is
    kept; 1: the likeliest token each time. Costs time in proportion."""


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
    """Metric by which the best checkpoint stays too, such as "val/top1"; its evaluation runs before
    every save that is planned, whatever its own `every`, so that each can be judged. none: by
    none."""
    best_mode: Literal["max", "min"] = "max"
    """Whether the best is the highest (accuracy) or the lowest (loss)."""


class Report(Section):
    """What is written while training."""

    every: Every = 50
    """How often a row of training metrics is written; step 1 and the last always are."""
    tensorboard: bool = True
    """Whether metrics are also written for TensorBoard, in WORKDIR/tensorboard."""
    curve: bool = True
    """Whether the curves of WORKDIR/metrics.jsonl are drawn into WORKDIR/curve.png at the end."""
    wandb: str | None = None
    """Weights & Biases project to log to, too (needs the wandb extra); none: no."""
    profile: tuple[Annotated[int, Field(ge=0)], Natural] | None = None
    """(first, end): steps to trace into WORKDIR/profile, to be opened in Perfetto or XProf;
    after the first few, which compile. none: no trace."""
    watchdog_s: float | None = Field(300.0, gt=0)
    """Seconds after which a batch, a step or a save that does not come is told of, with the stacks
    of all threads. Evaluations have ten times as long, and so have the state, the batch and the
    step that a process begins with; compiling takes as long as it takes. none: nothing is told."""


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
    """Checkpoint directory, here or on gs://, or published weights (a file, .npz, .safetensors or
    torch's, their folder, or their name on the Hugging Face hub), whose parameters start the run:
    all of them, not their averages, the position table resampled and patches resized to this run's.
    For another model or other classes see init_rules. The optimiser starts anew; to go on with a
    stopped run give its --workdir instead."""
    init_rules: Renames = ()
    """(regular expression, replacement) pairs over the names of init's parameters; the first that
    is found renames. The replacement "skip" leaves such parameters as they are drawn, and those of
    the checkpoint unused: (("^head/", "skip"),) for other classes. What fits nowhere is refused."""
    init_layout: str | None = None
    """Layout of published weights, by name or number (docs/weights.md); none: it is recognised."""
    init_known: str = ""
    """What published weights do not say of their model and an error asks for, as
    "heads=6,activation=quick"."""
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
