"""Our own checkpoints: what a run's config and words say of its model, and its parameters."""

import math
from typing import Any, NamedTuple

import jax

from big_vit_lite import checkpoint, config, data, models, weights
from big_vit_lite.config import InputError
from big_vit_lite.data.transforms.crops import CentralCrop
from big_vit_lite.data.transforms.decode import Decode
from big_vit_lite.data.transforms.resize import Resize, ResizeSmall
from big_vit_lite.storage import Place

SAME_EVERY_TIME = (Decode, Resize, ResizeSmall, CentralCrop)
"""Operations of a training transform that may stand in evaluation, too."""


class Found(NamedTuple):
    """What a checkpoint is of.

    Attributes:
        fault: why the preprocessing that is stated cannot be understood, where it cannot.
    """

    sections: weights.Sections
    params: Any
    preprocessing: weights.Preprocessing | None
    text: str | None
    fingerprint: str | None
    class_names: tuple[str, ...] | None
    loss: str
    path: Place
    fault: str = ""


def read(source: str | Place) -> Found:
    """The latest checkpoint of a run, or the one that is named; averaged parameters where its run
    kept any.

    Raises:
        InputError: there is none, it is damaged, or it does not say the size of its images.
    """
    path = checkpoint.find(source)
    meta = checkpoint.read_meta(path)
    run = config.Run.from_json(meta["config"], f"{path}/meta.json")
    sections = sections_of(run, meta, path)
    model = side_by_side(sections).build()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        models.abstract_params(model),
    )
    averaged = any(name.startswith("ema/") for name in meta["arrays"])
    params, _ = checkpoint.load_params(path, abstract, "ema" if averaged else "params")
    classifies = run.task.name == "classification"
    names = tuple(meta.get("class_names") or ())
    transform = eval_transform(run)
    channels = run.model.channels
    return Found(
        sections,
        params,
        None
        if transform is None
        else weights.Preprocessing(
            transform, each(run.data.mean, channels), each(run.data.std, channels)
        ),
        run.data.train.text or None,
        meta.get("text", {}).get("fingerprint"),
        names if classifies and len(names) == sections.model.classes else None,
        run.task.loss if classifies else "softmax",
        path,
    )


def side_by_side(sections: weights.Sections) -> weights.Sections:
    """The same model, not scanned: its parameters are as files hold them, block by block."""
    return weights.Sections(
        *(
            section.model_copy(update={"scan": False}) if hasattr(section, "scan") else section
            for section in sections
        )
    )


def sections_of(run: config.Run, meta: dict[str, Any], path: Place) -> weights.Sections:
    """The run's sections with what its data said: sizes of images and texts, and classes."""
    side = run.model.image_size or _trained_size(run, meta)
    if side is None:
        raise InputError(
            f"{path} does not say the size of its images: set model.image_size in a config, and "
            "save it again by a run that starts from it (config.init)."
        )
    if not isinstance(side, int):
        # A square is one number, as published files have it: layouts compare what they can say.
        side = side[0] if side[0] == side[1] else tuple(side)
    more: dict[str, Any] = {"image_size": side}
    if meta.get("position_grid"):
        more["position_grid"] = tuple(meta["position_grid"])
    if run.text is None or run.task.name == "classification":
        more["classes"] = run.model.classes or len(meta.get("class_names") or ())
        return weights.Sections(run.model.model_copy(update=more))
    text = run.text
    if text.length is None:
        text = text.model_copy(update={"length": data.text.length(run.data.train.text)})
    decoder = run.decoder if run.task.name == "coca" else None
    return weights.Sections(run.model.model_copy(update=more), text, run.joint, decoder)


def eval_transform(run: config.Run) -> str | None:
    """From a stored image to pixels as in evaluation: that of data.val, of an evaluation, or of
    training where nothing in it is drawn at random; None where there is none of an image."""
    splits = [run.data.val, *(each.data for each in run.evals.values())]
    for split in splits:
        if split is not None and data.transforms.parse(split.transform).several is None:
            return split.transform
    ops = data.transforms.parse(run.data.train.transform).ops
    return run.data.train.transform if all(isinstance(op, SAME_EVERY_TIME) for op in ops) else None


def _trained_size(run: config.Run, meta: dict[str, Any]) -> tuple[int, int] | None:
    for split in (run.data.train, run.data.val):
        if split is None:
            continue
        of_source = tuple(split.image_size) if split.source == "synthetic" else None
        if size := data.transforms.parse(split.transform).output_size(of_source):
            return tuple(size)
    grid = meta.get("position_grid")
    if not grid or run.model.variant in models.RESNETS:
        return None
    _, patch, stages = models.parse_variant(run.model.variant)
    patch = run.model.patch or patch
    patch = (patch, patch) if isinstance(patch, int) else patch
    stride = run.model.patch_stride or patch
    stride = (stride, stride) if isinstance(stride, int) else stride
    step = models.maps_stride(stages if run.model.stages is None else run.model.stages)
    return tuple(step * (s * (n - 1) + p) for n, s, p in zip(grid, stride, patch, strict=True))


def each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One number for each channel."""
    return tuple(values) * (math.ceil(channels / len(values)) if len(values) == 1 else 1)
