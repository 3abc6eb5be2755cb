"""From a config to the parts that training and evaluation share, and states between their forms."""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
    weights,
)
from big_vit_lite.models.layers import positions


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
        agreement.check_batch(run, batches.sizes)
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


class Start(NamedTuple):
    """Parameters to start from, and where they are from.

    Attributes:
        told: one line for a person.
        by_leaf: a line for each array.
    """

    params: Any
    told: str
    by_leaf: str


def init_params(parts: Parts, abstract: Any) -> Start:
    """What `run.init` gives, a checkpoint or published weights, as `run.init_rules` fit it to the
    model, and initial values for what the rules leave out.

    Args:
        abstract: shapes and shardings of the parameters.

    Raises:
        InputError: see checkpoint.transfer_params and weights.load.
    """
    stored = stored_form(parts, abstract)
    found, told = read_init(parts, stored)
    leaves = found.leaves | initial_values(parts, stored, found.fresh)
    params = jax.tree.map_with_path(lambda path, _: leaves[parallel.path_name(path)], stored)
    told = f"started from {parts.run.init}: {told}{found.describe()}"
    return Start(from_stored(parts, params), told, found.by_leaf())


def initial_values(parts: Parts, stored: Any, names: Collection[str]) -> dict[str, jax.Array]:
    """Parameters by path, as the run's seed draws them; no others are drawn.

    Args:
        stored: shapes and shardings of all parameters, in the form of checkpoints.
    """
    if not names:
        return {}
    wanted = {parallel.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(stored)}

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        drawn = models.unstack_layers(parts.task.init(key))
        leaves = {parallel.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(drawn)}
        return {name: leaves[name] for name in names}

    shardings = {name: wanted[name].sharding for name in names}
    return jax.jit(draw, out_shardings=shardings)(jax.random.key(parts.run.seed))


def read_init(parts: Parts, abstract: Any) -> tuple[checkpoint.Transferred, str]:
    """What `run.init` gives to the model, in the form of checkpoints, and a line about it.

    Raises:
        InputError: as `init_params`.
    """
    run, change = parts.run, functools.partial(resize_leaf, parts.model)
    if weights.locate(run.init) is not None:
        return weights.start_from(run, abstract, change)
    found = checkpoint.transfer_params(run.init, abstract, run.init_rules, change)
    return found, _reading(run, config.Run.from_json(found.meta["config"], f"init {run.init}"))


def _reading(run: config.Run, trained: config.Run) -> str:
    """Whether pixels and texts are read as in the run that is started from."""
    told = weights.normalisation(run.data, trained.data)
    if run.text is None or trained.text is None:
        return told
    ours, theirs = run.data.train.text, trained.data.train.text
    return told + ("texts read as theirs; " if ours == theirs else f"whose texts were {theirs!r}; ")


def check_init(run: config.Run, task: Any = None) -> None:
    """Raises InputError where `run.init` holds nothing to start from, or parameters that would
    compute something else in this run.

    Args:
        task: the run's, whose vocabulary a text tower must share; None: that is not looked at.
    """
    if weights.locate(run.init) is not None:
        weights.check_start(run)
        return
    if run.init_layout or run.init_known:
        raise config.InputError(
            f"init {run.init} holds no published weights, for which init_layout and init_known "
            "are: leave them out"
        )
    path = checkpoint.find(run.init)
    meta = checkpoint.read_meta(path)
    trained = config.Run.from_json(meta["config"], f"{path}/meta.json")
    names = [name.removeprefix("params/") for name in meta["arrays"] if name.startswith("params/")]
    weights.check_agreement(run, path, trained.model, trained.text, names)
    if task is not None and run.text is not None and weights.takes(run, names, "txt/"):
        agreement.check_vocabulary(task, meta, f"init: {path}")
        agreement.check_marks(task, meta, f"init: {path}")


def check_init_fits(parts: Parts) -> None:
    """Raises InputError where the parameters at `run.init`, after `run.init_rules`, are not those
    of the model, with the fields of the config that differ; for before anything is compiled."""
    run, change = parts.run, functools.partial(resize_leaf, parts.model)
    stored = stored_form(parts, abstract_params(parts))
    if weights.locate(run.init) is not None:
        weights.check_start_fits(run, stored, change)
        return
    trained = config.Run.from_json(checkpoint.read_meta(run.init)["config"], f"init {run.init}")
    with weights.naming_fields(run, trained):
        checkpoint.check_params(run.init, stored, run.init_rules, change)


def image_leaves(parts: Parts, params: Any) -> dict[str, jax.Array]:
    """The image tower of a pair by path, in the form of checkpoints."""
    leaves = jax.tree_util.tree_leaves_with_path(to_stored(parts, params)["img"])
    return {parallel.path_name(path): x for path, x in leaves}


def resize_leaf(
    model, name: str, old: tuple[int, ...], new: tuple[int, ...], meta: dict
) -> Callable[[jax.Array], jax.Array] | None:
    """How an array of another size becomes this model's: position tables and patch kernels can."""
    found = resize_positions(model, name, old, new, meta)
    return weights.patch_resize(name, old, new) if found is None else found


def resize_positions(
    model, name: str, old: tuple[int, ...], new: tuple[int, ...], meta: dict
) -> Callable[[jax.Array], jax.Array] | None:
    """How a learned position table of another grid becomes this model's, by the model's own rule.

    The grid is what the checkpoint says, or the square that its rows make. First rows, for the
    class and distillation tokens, are kept, or left out where the model has none.
    """
    tower = models.image_tower(model)
    grid = getattr(tower, "position_grid", None)
    if not name.endswith("pos_embedding") or name.startswith("txt/") or grid is None:
        return None
    if len(old) != 3 or old[-1] != new[-1]:
        return None
    first = new[1] - grid[0] * grid[1]
    side = math.isqrt(old[1])
    stored = tuple(meta.get("position_grid") or (side, side))
    old_first = old[1] - stored[0] * stored[1]
    if old_first not in (0, 1, 2) or first > old_first:
        return None
    if stored == tuple(grid) and first == old_first:
        return None

    def resize(table: jax.Array) -> jax.Array:
        rows = positions.resample(
            table[0, old_first:], stored, grid, tower.position_resample, tower.position_offset
        )
        return jnp.concatenate([table[0, :first], rows])[None]

    return resize


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
