"""What a classifier's classes are called, and which loss its probabilities are of."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from big_vit_lite import weights
from big_vit_lite.config import InputError
from big_vit_lite.evals import prompts


def classifies(sections: weights.Sections) -> bool:
    """Whether it is a tower alone with a head for classes; one without bias is the projection of an
    image tower that was one of two."""
    section = sections.model
    return sections.text is None and bool(section.classes) and section.head_bias is not None


def named(
    given: str | Path | Sequence[str], sections: weights.Sections, source: Any
) -> tuple[str, ...]:
    """Names as a user gives them, in the order of the head's logits.

    Args:
        given: a published set such as "imagenet", a file with one a line, names with commas between
            them, or a sequence of names. Several classes may share a name, as two of ImageNet do.

    Raises:
        InputError: none of these, another number of names than the head has classes, or no head.
    """
    if not classifies(sections):
        raise InputError(
            f"{source} has no head for classes, which class_names= would name: leave it out."
        )
    one = isinstance(given, str | Path)
    names = prompts.names_of(str(given), "class_names") if one else tuple(given)
    if not all(isinstance(name, str) for name in names):
        raise InputError("class_names= has what is no text: give the names of classes.")
    if len(names) != sections.model.classes:
        raise InputError(
            f"class_names= has {len(names):,} names, and the head of {source} has "
            f"{sections.model.classes:,} classes: give one for each, in the order of its logits."
        )
    return names


def loss(loaded: weights.Loaded) -> str:
    """sigmoid where the config.json beside weights says that an image has several classes
    (transformers' problem_type), or else softmax."""
    path = loaded.path.parent / "config.json"
    about = json.loads(path.read_text()) if path.is_file() else {}
    several = about.get("problem_type") == "multi_label_classification"
    return "sigmoid" if several and classifies(loaded.sections) else "softmax"
