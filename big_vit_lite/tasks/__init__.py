"""What is learned. A task has init, prepare, loss and predict, and plugs into the one loop.

init(key) -> params
prepare(batch, key) -> batch        on device, once a step, on the whole batch: normalise, mix
loss(params, batch, key) -> (scalar mean over examples, {name: scalar mean})
predict(params, batch) -> {name: array}   for evaluation; no randomness
"""

from big_vit_lite import config
from big_vit_lite.tasks.classification import Classification

TASKS = {"classification": Classification}


def build(run: config.Run, model):
    """The task that `run.task.name` names, around a model."""
    return TASKS[run.task.name](run, model)
