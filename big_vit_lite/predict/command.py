"""The command line: which command, the model, the images, the options."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import NamedTuple

from big_vit_lite import config
from big_vit_lite.config import InputError, Option
from big_vit_lite.predict import options

PROGRAM = "python -m big_vit_lite.predict"
_SOURCES = """
MODEL is what `big_vit_lite.load` takes: a file or folder of published weights, a run's --workdir or
checkpoint, or a name on the hub. INPUT is an image, a folder of images with all folders in it, a
pattern such as 'photos/*.jpg', or the URL of one of these.
"""


class Command(NamedTuple):
    """One of the commands.

    Attributes:
        about: the first sentence is for the list of commands.
        options: what it takes.
        words: what it takes beside options.
    """

    about: str
    options: tuple[Option, ...]
    words: str = "MODEL INPUT..."


COMMANDS = {
    "classify": Command(
        "Names the likeliest classes of each image.\nMODEL is a classifier.", options.CLASSIFY
    ),
    "zero_shot": Command(
        "Says which of some labels fits each image.\n"
        "MODEL has two towers, as CLIP and SigLIP. A label's score is the cosine of the image's\n"
        "feature with the mean feature of its texts (Radford 2021). Probabilities are the softmax\n"
        "over the labels; of models with a bias, as SigLIP, the sigmoid of each label.",
        options.ZERO_SHOT,
    ),
    "embed": Command("Writes a vector for each image into one file.", options.EMBED),
    "similar": Command(
        "Finds the embedded images that are nearest to others, or to a text, by the cosine.",
        options.SIMILAR,
        "MODEL [INPUT...]",
    ),
}


def overview() -> str:
    """--help without a command."""
    lines = [f"usage: {PROGRAM} COMMAND MODEL INPUT... [options]", ""]
    lines += [f"  {name:<10} {each.about.splitlines()[0]}" for name, each in COMMANDS.items()]
    return "\n".join([*lines, _SOURCES, f"Options: {PROGRAM} COMMAND --help"]) + "\n"


def run(argv: list[str]) -> int:
    """One command, from its words.

    Raises:
        InputError: wrong input.
        RunError: the disk is full, or the model gives no numbers.
        SystemExit: after --help.
    """
    name, *rest = argv or [""]
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("-", "_"), COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        told = f"{name!r} is no command" if name else "there is no command"
        raise InputError(f"{told}; {hint}")
    command = COMMANDS[name]
    words, given, faults = config.words_line(
        rest,
        program=f"{PROGRAM} {name}",
        about=f"{command.about}\n{_SOURCES}",
        options=command.options,
        words=command.words,
    )
    if not words:
        faults.insert(0, config.Fault("MODEL", "is missing: a file, a run or a name on the hub"))
    if faults:
        raise InputError("\n".join(map(str, faults)), faults)
    module = importlib.import_module(f"big_vit_lite.predict.{name}")
    try:
        module.run(words[0], words[1:], given)
    except InputError as error:
        raise InputError(options.as_options(str(error)), error.faults) from None
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code."""
    try:
        return config.exit_code(run, sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads the standard output has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
