"""Learning from a trained pair of towers beside the data (CLIP-KD, Yang 2024)."""

from typing import Any, NamedTuple

import jax

from big_vit_lite import checkpoint, config, data, models
from big_vit_lite.tasks.model import build_model


class Teacher(NamedTuple):
    """A trained pair of towers, whose similarities are learned.

    Attributes:
        path: its checkpoint, one step's directory.
        identity: of what lies there.
    """

    model: Any  # models.Clip
    mean: tuple[float, ...]
    std: tuple[float, ...]
    path: str = ""
    identity: str = ""

    def init(self, key: jax.Array):
        """Parameters of its shapes; the values come from its checkpoint."""
        return models.init_params(self.model, key)


def read_teacher(run: config.Run, task, spec: dict[str, Any], platform: str) -> Teacher:
    """The pair of towers that `run.task.teacher` holds, without its parameters.

    Raises:
        InputError: no such checkpoint, or one that reads other texts than this run.
    """
    path = checkpoint.find(run.task.teacher)
    meta = checkpoint.read_meta(path)
    theirs = config.Run.from_json(meta["config"], f"{path}/meta.json")
    if theirs.task.name == "classification":
        raise config.InputError(
            f"task.teacher {run.task.teacher} was trained for classification; name a checkpoint of "
            "two towers."
        )
    # Without what is drawn at random: the teacher is given the tokens that this run has drawn.
    read, ours = meta["text"], task.text
    if not data.text.same_reading(read["transform"], ours.text):
        raise config.InputError(
            f"task.teacher {run.task.teacher} reads texts as {read['transform']!r}, this run as "
            f"{ours.text!r}; both must see the same tokens."
        )
    if read["fingerprint"] != ours.fingerprint:
        raise config.InputError(
            f"task.teacher {run.task.teacher} was trained with the vocabulary "
            f"{read['fingerprint'][:12]}, and data.train.text, {ours.text!r}, reads "
            f"{ours.fingerprint[:12]}; both must see the same tokens."
        )
    section = theirs.model.model_copy(
        update={"position_grid": meta.get("position_grid"), "image_size": None}
    )
    theirs = theirs.model_copy(
        update={
            "model": section,
            "mesh": run.mesh,
            "optim": theirs.optim.model_copy(update={"grad_dtype": "auto"}),
        }
    )
    model = build_model(theirs, spec, 0, platform)
    identity = checkpoint.identity(path)
    return Teacher(model, theirs.data.mean, theirs.data.std, str(path), identity)
