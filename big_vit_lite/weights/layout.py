"""What a layout is: how it is recognised, what it says of the model, and its table of names."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from big_vit_lite.weights.files import Source
from big_vit_lite.weights.preprocessing import NotUnderstood, Preprocessing
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections

Form = dict[str, Any]
"""What differs between files of one layout without any effect on the model: prefixes, and whether
query, key and value are packed. Kept, so that what is written is the same again."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file is of."""

    sections: Sections
    preprocessing: Preprocessing | NotUnderstood | None
    form: Form = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        number: L01 and so on, as in docs/weights.md.
        name: for `load(path, layout=...)`.
        title: whose files these are.
        fits: whether a file has this layout, by its names.
        could: whether a file may have it where the user says so; None: as `fits`.
        describe: sections, preprocessing and form of a file. Raises InputError for what our models
            have not, and for what neither the file nor `known` says.
        rules: the table for a model and a form.
        carried: regular expressions of names that no model of ours has a leaf for. They are kept
            beside the parameters and written back.
        configs: JSON files to be written beside the weights; None: this layout has none. Raises
            InputError for what they cannot say.
        json: names of these files, those that are written only at times among them.
        names: where config.json has the names of classes: a function of it that reads them, none
            of which may be there, and one that makes the entries with them; None: nowhere.
        filler: what files of this layout hold beside the leaves of our models, written where no
            carried array has the name.
        file: name of the file of weights in a folder; None: such files are torch's pickles, which
            are not written.
    """

    number: str
    name: str
    title: str
    fits: Callable[[Source], bool]
    describe: Callable[[Source, Known], Description]
    rules: Callable[[Sections, Form], list[Rule]]
    carried: tuple[str, ...] = ()
    configs: Callable[[Sections, Preprocessing | None, Form], dict[str, Any]] | None = None
    json: tuple[str, ...] = ()
    names: tuple[Callable[[Any], Sequence[Any]], Callable[[Sequence[str]], Any]] | None = None
    filler: Callable[[Sections, Form], dict[str, np.ndarray]] | None = None
    could: Callable[[Source], bool] | None = None
    file: str | None = "model.safetensors"

    def carries(self, name: str) -> bool:
        """Whether a name of the file is kept as it is, because no model of ours has it."""
        return any(re.fullmatch(pattern, name) for pattern in self.carried)
