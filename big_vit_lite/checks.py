"""What only models and data know about a config: sizes, images, transforms, parts, paths.

Each check gives the faults of a run to `config.load`, which reports them with all others. None
imports JAX or reads data, so that a wrong config is refused at once.
"""

import re
from collections.abc import Callable, Iterator

from big_vit_lite.config import Fault, InputError, Model, Run, Split, Text, check_devices, splits

_PATCHES = ("model.variant", "model.patch", "model.patch_stride")


def sizes(run: Run) -> Iterator[Fault]:
    """Variants are known, widths divide by heads, positions fit the width, the mesh fits both."""
    yield from _tower_sizes(run, "model", run.model)
    if run.text is not None:
        yield from _tower_sizes(run, "text", run.text)


def _tower_sizes(run: Run, key: str, tower: Model | Text) -> Iterator[Fault]:
    from big_vit_lite.models.sizes import RESNETS, parse_size, parse_variant

    if tower.variant in RESNETS and key == "model":
        if run.mesh.stage > 1:
            wanted = f"splits Transformer blocks, and model.variant {tower.variant} has none; use 1"
            yield Fault("mesh.stage", wanted, run.mesh.stage, ("model.variant",))
        return
    variant, depends = f"{key}.variant", tuple(f"{key}.{n}" for n in ("variant", "width", "heads"))
    try:
        size = parse_variant(tower.variant).size if key == "model" else None
        size = size or parse_size(tower.variant, variant)
    except InputError as error:
        yield Fault(variant, _without_key(error, variant), tower.variant)
        return
    width, heads = tower.width or size.width, tower.heads or size.heads
    if width % heads:
        near = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads))
        name = "width" if tower.heads is None else "heads"
        value = width if tower.heads is None else heads
        wanted = f"width {width} does not divide by {heads} heads; use {near} heads"
        wanted += f" or width {max(1, round(width / heads)) * heads}"
        yield Fault(f"{key}.{name}", wanted, value, depends)
    depth, stages = tower.depth or size.depth, max(1, run.mesh.stage)
    if depth % stages:
        near = [n for n in range(2, depth + 1) if depth % n == 0]
        wanted = f"must divide the {depth} blocks of {variant} {tower.variant}; use "
        wanted += str(min(near, key=lambda n: abs(n - stages))) if near else "1"
        yield Fault("mesh.stage", wanted, run.mesh.stage, (variant, f"{key}.depth"))
    if heads % max(1, run.mesh.tensor):
        wanted = f"must divide the {heads} heads of {variant} {tower.variant}"
        yield Fault("mesh.tensor", wanted, run.mesh.tensor, depends)
    if key == "model" and tower.positions.startswith("sincos2d") and width % 4:
        wanted = f"needs a width that divides by 4, not {width}"
        yield Fault("model.positions", wanted, tower.positions, depends)


def transforms(run: Run) -> Iterator[Fault]:
    """Transforms of images and captions and parts of every split can be read."""
    from big_vit_lite.data import parts
    from big_vit_lite.data import text as captions
    from big_vit_lite.data import transforms as grammar

    kinds = {"transform": grammar.check, "text": captions.check, "part": parts.check}
    for key, split in splits(run):
        for name, check in kinds.items():
            if name == "text" and not split.text:
                continue  # without it no captions are read
            for finding in check(getattr(split, name)):
                yield Fault(f"{key}.{name}", finding, getattr(split, name))
    for name, evaluation in run.evals.items():
        for finding in grammar.check(evaluation.transform or ""):
            yield Fault(f"evals.{name}.transform", finding, evaluation.transform)


def images(run: Run) -> Iterator[Fault]:
    """Images divide into patches: those that train, and those evaluated, at whatever size."""
    from big_vit_lite.models.sizes import maps_stride, parse_variant

    if faults := list(_without_image(run)):
        yield from faults
        return
    made = {key: (image_size(split), split.transform) for key, split in splits(run)}
    trained, stated = made["data.train"][0], _pair(run.model.image_size)
    source = ("data.train.transform", "data.train.image_size", "data.train.source")
    if stated and trained and stated != trained:
        wanted = f"but data.train makes images of {_times(trained)}; leave it none, or resize there"
        yield Fault("model.image_size", wanted, run.model.image_size, source)
        return
    if run.model.drop_edge:
        return  # pixels that fill no patch are left out
    try:
        _, patch, stages = parse_variant(run.model.variant)
    except InputError:
        return  # a ResNet has none, and of all else `sizes` says so
    patch = _pair(run.model.patch) or patch
    stride = _pair(run.model.patch_stride) or patch
    step = maps_stride(stages if run.model.stages is None else run.model.stages)
    patch, stride = (tuple(step * side for side in pair) for pair in (patch, stride))
    if any(step > side for step, side in zip(stride, patch, strict=True)):
        wanted = f"is more than the patch, {_times(patch)}: pixels between patches would be lost"
        yield Fault("model.patch_stride", wanted, run.model.patch_stride, _PATCHES)
        return
    if wanted := _misfit(stated or trained, patch, stride):
        key, value = "model.variant", run.model.variant
        if run.model.patch is not None:
            key, value = "model.patch", run.model.patch
        yield Fault(key, wanted, value, (*_PATCHES, *source, "model.image_size"))
        return
    for key, (size, transform) in made.items():
        if key != "data.train" and (wanted := _misfit(size, patch, stride)):
            depends = (*_PATCHES, f"{key}.source", f"{key}.image_size")
            yield Fault(f"{key}.transform", wanted, transform, depends)


def _without_image(run: Run) -> Iterator[Fault]:
    from big_vit_lite.data import transforms as grammar

    for key, split in splits(run):
        if grammar.check(split.transform):
            continue  # `transforms` says so.
        made = list(grammar.parse(split.transform).specs())
        if run.task.name == "contrastive" and "features" in made:
            continue  # of a locked image tower
        if "image" not in made:
            wanted = f"makes {', '.join(made)}, but task.name {run.task.name} reads one image"
            yield Fault(f"{key}.transform", wanted, split.transform, ("task.name",))


def _misfit(
    size: tuple[int, int] | None, patch: tuple[int, int], stride: tuple[int, int]
) -> str | None:
    """Why images of a size cannot be cut into patches, if they cannot."""
    if size is None:
        return None
    if any(side > whole for side, whole in zip(patch, size, strict=True)):
        return f"patches of {_times(patch)} are larger than the images, {_times(size)}"
    if stride == patch and any(whole % side for side, whole in zip(patch, size, strict=True)):
        near = tuple(
            max(1, round(whole / side)) * side for side, whole in zip(patch, size, strict=True)
        )
        return (
            f"images of {_times(size)} do not divide into patches of {_times(patch)}; make images "
            f"of {_times(near)}, or set model.patch"
        )
    return None


def paths(run: Run) -> Iterator[Fault]:
    """Local files, folders, vocabularies are there; one that several splits want is missing once.

    URLs are left to the start of the run, and of patterns the folder is looked for.
    """
    return _paths(run, list(splits(run)))


def evaluated_paths(run: Run) -> Iterator[Fault]:
    """The same, but for the data that train."""
    return _paths(run, [found for found in splits(run) if not found[0].startswith(_TRAINING)])


def trains_here(run: Run) -> bool:
    """Whether all local files and folders that train are there."""
    return not any(fault.key.startswith(_TRAINING) for fault in paths(run))


_TRAINING = ("data.train", "data.mix.")


def _paths(run: Run, wanted_splits: list[tuple[str, Split]]) -> Iterator[Fault]:
    from big_vit_lite.data import text as captions

    wanting: dict[str, list[str]] = {}
    for key, split in wanted_splits:
        made = split.source in ("digit_pairs", "digits", "synthetic")
        for name, path in (("path", split.path), ("class_names", split.class_names)):
            if path and not (made and name == "path") and not _is_there(path):
                wanting.setdefault(path, []).append(f"{key}.{name}")
    for name, evaluation in run.evals.items():
        for field in ("file", "images"):
            path = getattr(evaluation, field)
            if evaluation.type == "choices" and path and not _is_there(path):
                what = "the JSON file of the choices" if field == "file" else "the images' folder"
                yield Fault(f"evals.{name}.{field}", f"is not there; give {what}", path)
    for key, split in splits(run):
        if split.text and not captions.check(split.text) and (why := captions.missing(split.text)):
            yield Fault(f"{key}.text", why, split.text)
    for path, (key, *others) in wanting.items():
        also = f" (and {', '.join(others)})" if others else ""
        wanted = (
            f"is not there; put the data in place or name its folder with --config.{key}=DIR{also};"
            " --help with this config says where the data comes from"
        )
        if key.endswith(".class_names"):
            wanted = "is not there; give a text file with one class name a line"
        yield Fault(key, wanted, path, (f"{key.rsplit('.', 1)[0]}.source",))


def _is_there(path: str) -> bool:
    """Whether a local path, or the folder in which a pattern begins, is there; URLs count as so."""
    from big_vit_lite.data import files

    path = files.normal(path)
    if files.is_url(path) or files.exists(path):
        return True
    if not files.is_pattern(path):
        return False
    return files.is_dir(files.parent(re.split(r"[{*?]", path)[0]) or ".")


def devices(count: Callable[[Run], int]) -> Callable[[Run], Iterator[Fault]]:
    """A check of mesh and batch sizes against the number of devices.

    Args:
        count: gives that number; called only when the check runs, so that it may start JAX.
    """
    return lambda run: check_devices(run, count(run))


STATIC = (sizes, transforms, images, paths)
"""All checks that look at nothing but the config and whether files exist."""
EVALUATION = (sizes, transforms, images, evaluated_paths)
"""Those for commands that do not train."""


def image_size(split: Split) -> tuple[int, int] | None:
    """(height, width) of the images a split makes; None where its files decide."""
    from big_vit_lite.data import transforms as grammar

    if grammar.check(split.transform):
        return None
    sizes = {"digits": (8, 8), "digit_pairs": (16, 16), "synthetic": split.image_size}
    size = sizes.get(split.source)
    return grammar.parse(split.transform).output_size(size)


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _without_key(error: InputError, key: str) -> str:
    return str(error).removeprefix(f"{key}: ")
