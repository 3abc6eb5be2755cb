"""Writes the published prompts and class names that zero-shot evaluation knows by name.

    pip download --no-deps open_clip_torch==3.3.0 clip-benchmark==1.6.2
    python tools/make_prompt_sets.py open_clip_torch-3.3.0-*.whl clip_benchmark-1.6.2-*.whl

The wheels are read as archives: nothing of them is installed or imported. What is written,
big_vit_lite/evals/assets/*.json, is word for word what they hold, spelling slips of the published
prompts included, as scores depend on them.
"""

import argparse
import ast
import json
import pathlib
import zipfile

ASSETS = pathlib.Path(__file__).parent.parent / "big_vit_lite" / "evals" / "assets"
METADATA = "open_clip/zero_shot_metadata.py"
SETS = "clip_benchmark/datasets/en_zeroshot_classification_templates.json"
NAMES = "clip_benchmark/datasets/en_classnames.json"
IMAGENET = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
TWICE = ("imagenet1k", "dummy")
"""Keys of clip_benchmark that open_clip has too, or that name no data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("open_clip", type=pathlib.Path, help="wheel of open_clip_torch")
    parser.add_argument("clip_benchmark", type=pathlib.Path, help="wheel of clip-benchmark")
    parser.add_argument("--out", type=pathlib.Path, default=ASSETS, help="folder to write to")
    args = parser.parse_args()
    constants = assigned(member(args.open_clip, METADATA))
    sets = json.loads(member(args.clip_benchmark, SETS))
    names = json.loads(member(args.clip_benchmark, NAMES))
    templates = {name: [template(t) for t in constants[key].elts] for name, key in IMAGENET.items()}
    templates |= {
        name: [text.replace("{c}", "{}") for text in texts]
        for name, texts in sorted(sets.items())
        if name not in TWICE
    }
    classes = {"imagenet": ast.literal_eval(constants["IMAGENET_CLASSNAMES"])}
    classes |= {name: list(found) for name, found in sorted(names.items()) if name not in TWICE}
    wheels = f"{args.open_clip.name}, {args.clip_benchmark.name}"
    write(args.out / "prompts.json", wheels, "templates", templates)
    write(args.out / "class_names.json", wheels, "class_names", classes)


def member(wheel: pathlib.Path, name: str) -> str:
    """A text file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode()


def assigned(source: str) -> dict[str, ast.expr]:
    """What a module's text assigns to its global names."""
    return {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def template(function: ast.Lambda) -> str:
    """`lambda c: f'a photo of a {c}.'` as "a photo of a {}."."""
    return "".join(
        "{}" if isinstance(part, ast.FormattedValue) else part.value
        for part in function.body.values
    )


def write(path: pathlib.Path, wheels: str, key: str, sets: dict[str, list[str]]) -> None:
    about = {
        "source": f"{wheels}: after data/prompts.md and the ImageNet notebook of OpenAI's CLIP",
        "licence": "MIT: Copyright (c) 2021 OpenAI; (c) 2012-2021 Gabriel Ilharco and others "
        "(open_clip); (c) 2022 Mehdi Cherti (CLIP_benchmark)",
        "made_by": "tools/make_prompt_sets.py",
    }
    path.write_text(json.dumps(about | {key: sets}, indent=1, ensure_ascii=False) + "\n")
    print(f"{path}: {', '.join(f'{name} {len(texts)}' for name, texts in sets.items())}")


if __name__ == "__main__":
    main()
