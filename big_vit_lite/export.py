"""Exports a model for serving: `python -m big_vit_lite.export MODEL --to DIR`.

MODEL is a file or folder of published weights, a run's --workdir or checkpoint, or a name on the
Hugging Face hub. DIR takes functions for any batch size, their weights, and serving.json with
preprocessing, class names and the text transform:

    python -m big_vit_lite.export runs/vit --to served
    python -m big_vit_lite.export openai/clip-vit-base-patch32 --to served --format onnx

docs/serving.md says how they are called.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from big_vit_lite import config, serving
from big_vit_lite.config import Fault, InputError, Option
from big_vit_lite.config.load import refuse
from big_vit_lite.predict import compiled, options
from big_vit_lite.serving import loading
from big_vit_lite.serving.exporting import DTYPES, FORMATS
from big_vit_lite.serving.functions import NAMES, PIXELS
from big_vit_lite.serving.stablehlo import KNOWN, PLATFORMS


def one_of(*choices: str) -> Callable[[str], str]:
    """A type of options: one of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}")
        return text

    return read


def several_of(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """A type of options: some of some words, by commas."""

    def read(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(","))
        if not set(words) <= set(choices):
            raise ValueError(f"wants some of {', '.join(choices)}, by commas")
        return words

    return read


OPTIONS = (
    Option("to", "DIR", "New folder that takes what is exported.", Path, required=True),
    Option(
        "function",
        "NAMES",
        f"Some of {', '.join(NAMES)}, by commas. Default: all that the model has.",
        several_of(*NAMES),
    ),
    Option(
        "format",
        "FORMAT",
        "stablehlo (default), for JAX on any device, or onnx, for onnxruntime and others (pip "
        'install "big_vit_lite[onnx]").',
        one_of(*FORMATS),
    ),
    Option(
        "pixels",
        "TYPE",
        "uint8 (default): images as they are decoded and resized, which the function normalises; "
        "float32: images that are normalised already.",
        one_of(*PIXELS),
    ),
    Option(
        "dtype",
        "TYPE",
        "What towers compute in: float32 (default), or for GPU and TPU bfloat16 or float16. "
        "Inputs, weights and outputs stay what they are. onnx has float32 alone.",
        one_of(*DTYPES),
    ),
    Option(
        "platforms",
        "NAMES",
        f"Where stablehlo will run: some of {', '.join(KNOWN)}, by commas. Default: "
        f"{','.join(PLATFORMS)}; one file is for all of them.",
        several_of(*KNOWN),
    ),
    *options.CLASSES,
    *options.MODEL,
    *options.TEXTS,
)


def main(argv: list[str]) -> None:
    source, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    given, faults = config.options_line(
        rest, program="python -m big_vit_lite.export MODEL", about=__doc__, options=OPTIONS
    )
    if source is None:
        faults.insert(0, Fault("MODEL", "is missing: name a model before all options"))
    if faults:
        raise refuse(faults)
    try:
        about = serving.export(
            compiled.model_of(source, given),
            given["to"],
            given.get("function"),
            given.get("format", FORMATS[0]),
            pixels=given.get("pixels", PIXELS[0]),
            dtype=given.get("dtype", DTYPES[0]),
            platforms=given.get("platforms", PLATFORMS),
        )
    except InputError as error:
        raise InputError(options.as_options(str(error)), error.faults) from None
    for said in about["functions"].values():
        print(f"{given['to'] / said['file']}: {loading.signature(said)}")


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
