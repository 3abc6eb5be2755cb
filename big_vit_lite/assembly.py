"""From a config to the parts that training and evaluation share, and states between their forms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from big_vit_lite import (
    agreement,
    checkpoint,
    config,
    data,
    evals,
    models,
    parallel,
    tasks,
)


class Parts(NamedTuple):
    """What a run is made of, before any parameter exists."""

    run: config.Run
    mesh: Mesh
    batches: Any  # data.TrainStream
    steps: int
    model: Any  # models.ViT, models.Clip or models.Coca
    task: Any
    evaluations: list[evals.Scheduled]


def assemble(run: config.Run, batches: Any = None) -> Parts:
    """Builds mesh, data, model, task and evaluations of a run.

    Args:
        batches: as for `assemble_step`, of devices that are here, in place of data.train, which is
            not opened then: the run is not trained.

    Raises:
        InputError: wrong input that only files or devices show.
    """
    agreement.check_processes(run)
    parallel.start(run.deterministic)
    mesh = parallel.make_mesh(run.mesh)
    trains = batches is None
    if trains:
        batches = data.train_stream(run.data, run.seed, mesh)
    parts = assemble_step(run, mesh, batches)
    agreement.check_text(run, parts.task)
    if trains:
        agreement.check_lengths(batches.examples, parts.steps)
        if "features" in batches.spec:
            agreement.check_locked(run, abstract_params(parts))
    evaluations = evals.build(run, parts.task, mesh, batches, parts.steps)
    for evaluation in evaluations:  # now, not hours later at the first evaluation
        if "image" in evaluation.stream.spec:
            check_eval_images(parts, evaluation)
    return parts._replace(evaluations=evaluations)


def check_eval_images(parts: Parts, evaluation: evals.Scheduled) -> None:
    """Raises InputError unless the model can look at an evaluation's images."""
    height, width, channels = evaluation.stream.spec["image"].shape[1:]
    if channels != parts.run.model.channels:
        raise config.InputError(
            f"evaluation {evaluation.name} has images of {channels} channels and the model "
            f"{parts.run.model.channels}; its transform wants "
            f"decode(channels={parts.run.model.channels})."
        )
    models.image_tower(parts.model).grid((height, width))


def assemble_step(run: config.Run, mesh: Mesh, batches: Any) -> Parts:
    """Builds what the training step is made of, and no evaluations.

    Args:
        mesh: of devices that may be anywhere: a plan's are on no machine.
        batches: with `spec`, `class_names` and `examples`, as `data.train_stream` has them.

    Raises:
        InputError: batches that the run cannot learn from.
    """
    steps = config.total_steps(run, batches.examples)
    classes = run.model.classes or len(batches.class_names)
    if classes < len(batches.class_names):
        raise config.InputError(
            f"model.classes is {classes}, but data.train has {len(batches.class_names)} classes; "
            "leave model.classes none, or give at least that many."
        )
    platform = mesh.devices.flat[0].platform
    model = tasks.build_model(run, batches.spec, classes, platform)
    task = tasks.build(run, model)
    if run.task.teacher is not None:
        task.teacher = tasks.read_teacher(run, task, batches.spec, platform)
    return Parts(run, mesh, batches, steps, model, task, evaluations=[])


def with_teacher(parts: Parts, state: Any, training: parallel.Training) -> Any:
    """The state with the teacher's parameters, if the task has one: its averaged ones, where its
    checkpoint has any."""
    if parallel.TEACHER not in training.abstract:
        return state
    abstract = training.abstract[parallel.TEACHER]
    path = parts.task.teacher.path
    named = checkpoint.read_meta(path)["arrays"]
    which = "ema" if any(name.startswith("ema/") for name in named) else "params"
    stored, _ = checkpoint.load_params(path, stored_form(parts, abstract), which=which)
    params = from_stored(parts, stored, parts.task.teacher.model)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return state | {parallel.TEACHER: jax.device_put(params, shardings)}


def earlier_tasks(parts: Parts) -> list[tuple[int, Any]]:
    """(last step, task) of the steps on smaller images that `run.task.progressive` asks for.

    Raises:
        InputError: sizes that the model cannot look at, or points that are not in order.
    """
    found, before = [], 0
    for until, size in parts.run.task.progressive:
        size = (size, size) if isinstance(size, int) else tuple(size)
        last = config.steps_of(until, parts.run, parts.batches.examples, parts.steps)
        if last <= before:
            raise config.InputError(
                f"task.progressive: {until!r} is step {last:,}, not after the point before it, "
                f"step {before:,}; give them in order."
            )
        before = last
        try:
            models.image_tower(parts.model).grid(size)
        except config.InputError as error:
            raise config.InputError(f"task.progressive: {error}") from error
        whole = parts.batches.spec["image"].shape[1:3]
        if any(side > there for side, there in zip(size, whole, strict=True)):
            raise config.InputError(
                f"task.progressive: {until!r} has images of {size[0]}x{size[1]}, and "
                f"data.train.transform makes them {whole[0]}x{whole[1]}: they are made smaller "
                "first, never larger."
            )
        found.append((last, parts.task.at_size(size)))
    return found


def count_devices(run: config.Run) -> int:
    """Devices of all processes together; starts JAX as the run will."""
    parallel.start(run.deterministic)
    return jax.device_count()


def stored_form(parts: Parts, abstract: Any) -> Any:
    """Shapes and shardings of a state as checkpoints hold it: layers side by side."""
    return parallel.with_shardings(models.unstack_layers(abstract), parts.mesh)


def to_stored(parts: Parts, state: Any) -> Any:
    """A state in the form of checkpoints, without a teacher's parameters."""
    if parallel.TEACHER in state:
        state = {name: x for name, x in state.items() if name != parallel.TEACHER}
    if not parts.model.scan:
        return state
    return parallel.relayout(models.unstack_layers, state, parts.mesh)


def from_stored(parts: Parts, state: Any, model: Any = None) -> Any:
    """A checkpoint's state in the form of the run's model, or of another one."""
    if not (model or parts.model).scan:
        return state
    return parallel.relayout(models.stack_layers, state, parts.mesh)


def abstract_params(parts: Parts) -> Any:
    """Shapes of the model's parameters."""
    return models.abstract_params(parts.model)


def train_flops(parts: Parts, size: tuple[int, int] | None = None) -> int:
    """Analytic FLOPs to train on one image, of (height, width) `size` or as the data has them."""
    return tasks.train_flops(parts.run, parts.model, parts.batches.spec, size)


def step_flops(parts: Parts) -> Callable[[int], int]:
    """FLOPs an image of step `step`, which are fewer while images are smaller."""
    whole = train_flops(parts)
    smaller = [(last, train_flops(parts, task.size)) for last, task in earlier_tasks(parts)]
    return lambda step: next((flops for last, flops in smaller if step <= last), whole)
