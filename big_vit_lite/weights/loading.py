"""load: from a file of published weights to sections of a config, parameters and preprocessing."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from big_vit_lite.config import InputError
from big_vit_lite.weights import rules
from big_vit_lite.weights.files import Source, Stored, open_source
from big_vit_lite.weights.files.stored import float32
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import detect, find
from big_vit_lite.weights.preprocessing import NotUnderstood, Preprocessing
from big_vit_lite.weights.sections import Known, Sections

WRONG = (
    KeyError,
    TypeError,
    IndexError,
    ZeroDivisionError,
    AttributeError,
    pydantic.ValidationError,
)
"""What settings or shapes of another kind than a layout expects lead to."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Published weights in our terms.

    Attributes:
        layout: the name of the layout they came in.
        sections: what model they are of; `sections.build()` makes it.
        params: nested dict of float32 NumPy arrays, layers side by side.
        preprocessing: of images and texts; None where the source does not say it.
        form: what differs between files of the layout without effect on the model.
        carried: arrays of the file, by its names, that no model of ours has, such as mask tokens.
        dtypes: types of the file's arrays, by its names.
        path: the file.
        class_names: of the head's outputs, where the source says them.
        text: the text transform that the source says.
        preprocessing_fault: why preprocessing is None where the source says it in words that are
            not known here, as a sentence to be raised where it is needed; empty otherwise.
    """

    layout: str
    sections: Sections
    params: dict[str, Any]
    preprocessing: Preprocessing | None
    form: Form
    carried: dict[str, np.ndarray]
    dtypes: dict[str, np.dtype]
    path: Path
    class_names: tuple[str, ...] | None = None
    text: str | None = None
    preprocessing_fault: str = ""

    @property
    def family(self) -> str:
        """vit, mae, clip or coca."""
        return self.sections.family

    def encoder(self) -> "Loaded":
        """The image tower of a masked autoencoder alone, without its decoder; others: the same."""
        if self.sections.reconstruction is None:
            return self
        return dataclasses.replace(
            self, sections=Sections(self.sections.model), params=self.params["encoder"]
        )


def load(
    path: str | Path, layout: str | None = None, known: Mapping[str, Any] | None = None
) -> Loaded:
    """Reads weights of any known layout; every name of the file has its place, or is told of.

    Args:
        path: a file, or a folder as the hub has it. JSON files beside the weights are read.
        layout: name or number of the layout; None: it is recognised by the names in the file.
        known: what the file does not say, such as {"heads": 6}; an error says when it is needed.

    Raises:
        InputError: no file of weights, an unknown layout, names or shapes that do not fit, or a
            model that ours cannot be.
    """
    source = side_by_side(open_source(path))
    chosen = _chosen(source, layout)
    described = describe(chosen, source, known)
    table = chosen.rules(described.sections, described.form)
    check(chosen, source, described)
    flat, _ = rules.read(
        table,
        {
            name: functools.partial(float32, stored)
            for name, stored in source.arrays.items()
            if not chosen.carries(name)
        },
    )
    said, form = described.preprocessing, described.form
    if isinstance(said, NotUnderstood):
        form = form | {"preprocessor": said.about}
    return Loaded(
        layout=chosen.name,
        sections=described.sections,
        params=nested(flat),
        preprocessing=said if isinstance(said, Preprocessing) else None,
        form=form,
        carried={k: x.read() for k, x in source.arrays.items() if chosen.carries(k)},
        dtypes={name: stored.dtype for name, stored in source.arrays.items()},
        path=source.path,
        class_names=class_names(chosen, source, described.sections),
        text=said and said.text,
        preprocessing_fault=said.fault if isinstance(said, NotUnderstood) else "",
    )


def class_names(layout: Layout, source: Source, sections: Sections) -> tuple[str, ...] | None:
    """Names of the head's outputs in the config.json; None where it has numbers or others."""
    classes = sections.model.classes
    if layout.names is None or not classes:
        return None
    names, _ = layout.names
    found = names(source.configs.get("config.json", {}))
    told = len(found) == classes and all(isinstance(name, str) for name in found)
    return tuple(found) if told else None


def side_by_side(source: Source) -> Source:
    """Layers that a file holds stacked along a first axis (big_vision, scanned) as one each."""
    arrays: dict[str, Stored] = {}
    for name, stored in source.arrays.items():
        above, here, below = name.rpartition("/encoderblock/")
        if not here:
            arrays[name] = stored
            continue
        for i in range(stored.shape[0]):
            layer = Stored(stored.shape[1:], stored.dtype, lambda x=stored, i=i: x.read()[i])
            arrays[f"{above}/encoderblock_{i}/{below}"] = layer
    return dataclasses.replace(source, arrays=arrays)


def _chosen(source: Source, layout: str | None) -> Layout:
    if layout is None:
        return detect(source)
    chosen = find(layout)
    if not (chosen.could or chosen.fits)(source):
        try:
            other = f"it is laid out as {detect(source).title}"
        except InputError:
            other = f"its arrays are {', '.join(list(source.arrays)[:3])} and so on"
        raise InputError(f"{source.path} is not laid out as {chosen.title}: {other}.")
    return chosen


def describe(layout: Layout, source: Source, known: Mapping[str, Any] | None = None) -> Description:
    """What a file is of.

    Raises:
        InputError: the file or the JSON beside it lacks something, or says what is not known here.
    """
    facts = Known(source.path, dict(known or {}))
    try:
        described = layout.describe(source, facts)
    except WRONG as error:
        reason = " ".join(str(error).split("For further")[0].split())
        raise InputError(
            f"{source.path}, laid out as {layout.title}, or the JSON beside it does not say what "
            f"it should ({type(error).__name__}: {reason}): fetch both again."
        ) from None
    facts.check()
    return described


def check(layout: Layout, source: Source, described: Description) -> None:
    """Raises InputError unless the file has the names and shapes that its model asks for."""
    table = layout.rules(described.sections, described.form)
    wanted = rules.expected(table, described.sections.leaves())
    given = {name: shape for name, shape in source.shapes.items() if not layout.carries(name)}
    rules.check(given, wanted, f"{source.path} does not fit {layout.title}, as which it was read:")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *above, last = name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree
