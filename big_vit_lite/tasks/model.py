"""The model that a run's task learns, for its batches; what batches must hold for it."""

from typing import Any

from big_vit_lite import config, models


def build_model(run: config.Run, spec: dict[str, Any], classes: int, platform: str):
    """The model of a run, every "auto" resolved.

    Args:
        spec: shapes of a global batch, as `stream.spec` gives them.
        classes: class names that the data has; without meaning for two towers.
        platform: cpu, gpu or tpu.

    Raises:
        InputError: sections that do not fit each other or the batches.
    """
    check_batches(run, spec)
    shape = image_shape(run, spec)
    if run.task.name == "classification":
        model = models.build_model(run.model, shape, run.model.classes or classes, platform)
    elif run.task.name == "coca":
        length = spec["text"].shape[1]
        model = models.build_coca(
            run.model, run.text, run.joint, run.decoder, shape, length, platform
        )
    else:
        length = spec["text"].shape[1]
        model = models.build_clip(run.model, run.text, run.joint, shape, length, platform)
    if "features" in spec:
        _check_features(model, spec["features"].shape[1])
    model = models.with_grad_dtype(model, run.optim.grad_dtype)
    if run.mesh.stage > 1:
        model = models.in_stages(model, config.microbatches(run.mesh))
    return model


def check_batches(run: config.Run, spec: dict[str, Any]) -> None:
    """Raises InputError unless batches hold what the task learns from."""
    task = run.task.name
    made = ", ".join(key for key in spec if key not in ("label", "text"))
    features = task == "contrastive" and "features" in spec
    if "image" not in spec and not features:
        raise config.InputError(
            f"data.train.transform makes {made}, and task {task} learns from one image; end the "
            "transform with an image."
        )
    if task == "classification" and "label" not in spec:
        raise config.InputError(
            "data.train holds no labels, and task classification learns them; name them with "
            "data.train.label_key, or take data.train.text away."
        )
    if task != "classification" and "text" not in spec:
        raise config.InputError(
            f"data.train.text is missing, and task {task} learns from captions; set it, such as "
            "\"tokenize('clip')|truncate(77)|pad(77)\"."
        )
    if features and run.task.progressive:
        raise config.InputError(
            "task.progressive makes images smaller, and data.train holds features of images; "
            "leave it empty."
        )
    if features and run.task.teacher:
        raise config.InputError(
            "task.teacher looks at images, and data.train holds features of images; use the images."
        )


def image_shape(run: config.Run, spec: dict[str, Any]) -> tuple[int, int, int]:
    """(height, width, channels) that the model is built for.

    Raises:
        InputError: the config says otherwise than the images, or nothing where there are none.
    """
    stated = run.model.image_size
    stated = (stated, stated) if isinstance(stated, int) else stated
    if "image" not in spec:
        if stated is None:
            raise config.InputError(
                "data.train holds features and no images, which do not say for what images the "
                "tower is: set model.image_size, such as 224."
            )
        return (*stated, run.model.channels)
    height, width, channels = spec["image"].shape[1:]
    if channels != run.model.channels:
        raise config.InputError(
            f"model.channels is {run.model.channels}, but data.train.transform makes images of "
            f"{channels}; set model.channels={channels}, or decode(channels={run.model.channels})."
        )
    if stated is not None and tuple(stated) != (height, width):
        raise config.InputError(
            f"model.image_size is {stated[0]}x{stated[1]}, but data.train.transform makes images "
            f"of {height}x{width}; leave model.image_size none, or resize there."
        )
    return height, width, channels


def _check_features(model, width: int) -> None:
    made = getattr(model.img, "classes", 0) or getattr(model.img, "features", 0)
    made = made or model.img.output_features
    if made != width:
        raise config.InputError(
            f"data.train holds features of {width} numbers, and the image tower makes {made}: "
            "compute them with this tower, or choose its section model to fit."
        )
