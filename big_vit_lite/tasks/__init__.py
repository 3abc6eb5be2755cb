"""What is learned. A task has these methods, and plugs into the one loop:

init(key) -> params
prepare(batch, key) -> batch        on device, once a step, on the whole batch: mixing, say
loss(params, batch, key) -> (scalar, {name: scalar mean})
at_size(size) -> task               the same on smaller images, for progressive training

Evaluations ask for what they measure, without randomness:

predict(params, batch) -> {name: array}              classification
encode_image(params, batch) -> (b, e)                two towers, rows of length 1
encode_text(params, tokens) -> (b, e)
image_tokens(params, batch) -> (b, q, e)             a caption decoder
caption_nll(params, image_tokens, tokens) -> {caption_nll, caption_tokens}
write(params, batch, beams) -> (texts, log-probabilities)

A loss that is a mean over examples is computed in parts as it is. One that compares the examples of
a batch has `in_parts`, which says how; see parallel/training.py.
"""

from big_vit_lite import config
from big_vit_lite.tasks.classification import Classification
from big_vit_lite.tasks.coca import CocaTask
from big_vit_lite.tasks.contrastive import Contrastive
from big_vit_lite.tasks.flops import train_flops
from big_vit_lite.tasks.model import build_model
from big_vit_lite.tasks.teacher import read_teacher

__all__ = ["TASKS", "build", "build_model", "read_teacher", "train_flops"]

TASKS = {"classification": Classification, "contrastive": Contrastive, "coca": CocaTask}


def build(run: config.Run, model):
    """The task that `run.task.name` names, around a model."""
    return TASKS[run.task.name](run, model)
