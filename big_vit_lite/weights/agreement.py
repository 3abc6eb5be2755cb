"""What a run must have as its `init` has it: fields that change the function and no shape."""

import re
from collections.abc import Sequence
from typing import Any

from big_vit_lite import checkpoint, config
from big_vit_lite.config import InputError

AGREE = {
    "model": (
        "activation", "norm_eps", "pre_norm", "patch_bias", "pool_norm", "class_position",
        "stem_norm_eps", "stem_standardize",
    ),
    "text": ("activation", "norm_eps", "causal", "pool", "end_id", "pad_id"),
}  # fmt: skip
"""Fields of each tower without which the same parameters compute something else."""


def check_agreement(
    run: config.Run, where: Any, model: config.Model, text: config.Text | None, names: Sequence[str]
) -> None:
    """Raises InputError where a tower that `run.init_rules` take computes otherwise in this run.

    Args:
        where: what the error calls the parameters.
        model, text: the sections of their model.
        names: of the parameters.
    """
    pair, wrong = text is not None, []
    if not model.variant.startswith("RN") and (not pair or _takes(run, names, "img/")):
        wrong = _differences(run, "model", run.model, model)
        if (run.model.layer_scale is None) != (model.layer_scale is None):
            wrong.append(
                f"model.layer_scale is {run.model.layer_scale} and theirs {model.layer_scale}"
            )
    if run.text is not None and pair and _takes(run, names, "txt/"):
        wrong += _differences(run, "text", run.text, text)
    if wrong:
        raise InputError(
            f"init: {where} was trained with another model: {'; '.join(wrong)}. Set these "
            "fields as theirs are: the same weights would compute something else."
        )


def _differences(run: config.Run, section: str, ours: Any, theirs: Any) -> list[str]:
    pairs = ((name, getattr(ours, name), getattr(theirs, name)) for name in AGREE[section])
    return [
        f"{section}.{name} is {_show(here)} and theirs {_show(there)}"
        for name, here, there in pairs
        if here != there and not _harmless(name, run, theirs)
    ]


def _takes(run: config.Run, names: Sequence[str], tower: str) -> bool:
    """Whether the rules leave something of one of two towers in."""
    for name in (name for name in names if name.startswith(tower)):
        found = (to for pattern, to in run.init_rules if re.search(pattern, name))
        if next(found, "") != checkpoint.SKIP:
            return True
    return False


def _harmless(name: str, run: config.Run, theirs: config.Model | config.Text) -> bool:
    """A row of the position table for a class token means nothing without one; an end token only
    where it is read, and one that is not named is the last of the vocabulary."""
    if name == "class_position":
        return not run.model.has_class_token
    if name == "end_id":
        ends = {
            text.vocabulary - 1 if text.end_id is None else text.end_id
            for text in (run.text, theirs)
        }
        return run.text.pool != "end" or len(ends) == 1
    return False


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
