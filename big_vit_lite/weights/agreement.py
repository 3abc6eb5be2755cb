"""What a run must have as its `init` has it: fields that change the function and no shape."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from big_vit_lite import checkpoint, config
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import RESNETS, parse_size, parse_variant

AGREE = {
    "model": (
        "activation", "norm_eps", "pre_norm", "patch_bias", "pool_norm", "class_position",
        "stem_norm_eps", "stem_standardize",
    ),
    "text": ("activation", "norm_eps", "causal", "pool", "end_id", "pad_id"),
}  # fmt: skip
"""Fields of each tower without which the same parameters compute something else."""


SHAPES = {
    "model": (
        "width", "depth", "heads", "mlp_dim", "stages", "stem_width", "patch", "patch_bias",
        "channels", "classes", "pool", "pool_norm", "class_token", "positions", "class_position",
        "registers", "layer_scale", "distillation", "distillation_head", "pre_norm", "activation",
        "bias", "qkv_bias", "pre_logits",
    ),
    "text": ("width", "depth", "heads", "mlp_dim", "vocabulary", "length", "pool"),
    "joint": ("features", "projections", "projection_bias", "logit_bias"),
    "decoder": ("depth", "queries", "pool_heads"),
}  # fmt: skip
"""Fields of each section with which a model has other parameters, or as many of another shape."""


@contextlib.contextmanager
def naming_fields(run: config.Run, theirs: Any) -> Iterator[None]:
    """Where parameters do not fit the model of `run`, the error names the fields of the config that
    differ from `theirs`, a config.Run or Sections."""
    try:
        yield
    except checkpoint.Misfit as error:
        found = [
            f"{section}.{name} is {_show(here)} and theirs {_show(there)}"
            for section in SHAPES
            if None not in (ours := getattr(run, section), other := getattr(theirs, section))
            for name, here, there in _other_shapes(section, ours, other)
        ]
        if not found:
            raise
        raise checkpoint.Misfit(f"{error}\n  of the config: {'; '.join(found)}") from None


def _other_shapes(section: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    """(field, value here, value there) of those in SHAPES that differ."""
    here, there = _shapes(section, ours), _shapes(section, theirs)
    pairs = [(name, here[name], there[name]) for name in SHAPES[section]]
    # The data's, where a config gives none.
    unknown = [name for name, *both in pairs if name in ("classes", "length") and None in both]
    return [(name, a, b) for name, a, b in pairs if a != b and name not in unknown]


def _shapes(section: str, fields: Any) -> dict[str, Any]:
    """Values of the fields in SHAPES; sizes that are not given are the variant's."""
    given = {name: getattr(fields, name) for name in SHAPES[section]}
    meant: dict[str, Any] = {}
    if section == "text":
        meant = parse_size(fields.variant, "text.variant")._asdict()
    elif section == "model" and fields.variant in RESNETS:
        meant = RESNETS[fields.variant]._asdict()
    elif section == "model":
        size, patch, stages = parse_variant(fields.variant)
        meant = size._asdict() | {"patch": patch, "stages": stages}
        meant["class_token"] = fields.has_class_token
        if isinstance(side := given["patch"], int):
            given["patch"] = (side, side)
    return {name: meant.get(name) if x is None else x for name, x in given.items()}


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
    if not model.variant.startswith("RN") and (not pair or takes(run, names, "img/")):
        wrong = _differences(run, "model", run.model, model)
        if (run.model.layer_scale is None) != (model.layer_scale is None):
            wrong.append(
                f"model.layer_scale is {run.model.layer_scale} and theirs {model.layer_scale}"
            )
    if run.text is not None and pair and takes(run, names, "txt/"):
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


def takes(run: config.Run, names: Sequence[str], tower: str) -> bool:
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
