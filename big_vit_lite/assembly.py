"""From a config to the parts that training and evaluation share, and states between their forms."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from big_vit_lite import checkpoint, config, data, evals, models, parallel, report, tasks, weights
from big_vit_lite.models.layers import positions
from big_vit_lite.models.layers.blocks import GATED
from big_vit_lite.models.layers.patches import patch_grid


class Parts(NamedTuple):
    """What a run is made of, before any parameter exists."""

    run: config.Run
    mesh: Mesh
    batches: Any  # data.TrainStream
    steps: int
    model: Any  # models.ViT
    task: Any
    evaluations: list[evals.Scheduled]


def assemble(run: config.Run) -> Parts:
    """Builds mesh, data, model, task and evaluations of a run.

    Raises:
        InputError: wrong input that only files or devices show.
    """
    parallel.start(run.deterministic)
    mesh = parallel.make_mesh(run.mesh)
    batches = data.train_stream(run.data, run.seed, mesh)
    parts = assemble_step(run, mesh, batches)
    evaluations = evals.build(run, parts.task, mesh, batches, parts.steps)
    for evaluation in evaluations:  # now, not hours later at the first evaluation
        height, width, channels = evaluation.stream.spec["image"].shape[1:]
        if channels != run.model.channels:
            raise config.InputError(
                f"evaluation {evaluation.name} has images of {channels} channels and the model "
                f"{run.model.channels}; its transform wants decode(channels={run.model.channels})."
            )
        patch_grid(
            (height, width), parts.model.patch, parts.model.patch_stride, parts.model.drop_edge
        )
    return parts._replace(evaluations=evaluations)


def assemble_step(run: config.Run, mesh: Mesh, batches: Any) -> Parts:
    """Builds what the training step is made of, and no evaluations.

    Args:
        mesh: of devices that may be anywhere: a plan's are on no machine.
        batches: with `spec`, `class_names` and `examples`, as `data.train_stream` has them.

    Raises:
        InputError: batches that the run cannot learn from.
    """
    check_keys(batches.spec)
    steps = config.total_steps(run, batches.examples)
    image_shape = batches.spec["image"].shape[1:]
    check_images(run, image_shape)
    platform = mesh.devices.flat[0].platform
    classes = run.model.classes or len(batches.class_names)
    if classes < len(batches.class_names):
        raise config.InputError(
            f"model.classes is {classes}, but data.train has {len(batches.class_names)} classes; "
            "leave model.classes none, or give at least that many."
        )
    model = models.build_model(run.model, image_shape, classes, platform)
    model = models.with_grad_dtype(model, run.optim.grad_dtype)
    if run.mesh.stage > 1:
        model = models.in_stages(model, config.microbatches(run.mesh))
    task = tasks.build(run, model)
    return Parts(run, mesh, batches, steps, model, task, evaluations=[])


def check_keys(spec: dict[str, Any]) -> None:
    """Raises InputError unless batches hold what classification learns from."""
    if "image" not in spec:
        raise config.InputError(
            f"data.train.transform makes {', '.join(k for k in spec if k != 'label')}, and task "
            "classification learns from one image; end the transform with an image."
        )
    if "label" not in spec:
        raise config.InputError(
            "data.train holds no labels, and task classification learns them; name them with "
            "data.train.label_key, or take data.train.text away."
        )


def check_images(run: config.Run, image_shape: tuple[int, int, int]) -> None:
    """Raises InputError unless the images are what the config says of them."""
    height, width, channels = image_shape
    if channels != run.model.channels:
        raise config.InputError(
            f"model.channels is {run.model.channels}, but data.train.transform makes images of "
            f"{channels}; set model.channels={channels}, or decode(channels={run.model.channels})."
        )
    stated = run.model.image_size
    stated = (stated, stated) if isinstance(stated, int) else stated
    if stated is not None and tuple(stated) != (height, width):
        raise config.InputError(
            f"model.image_size is {stated[0]}x{stated[1]}, but data.train.transform makes images "
            f"of {height}x{width}; leave model.image_size none, or resize there."
        )


def check_class_names(parts: Parts, meta: dict) -> None:
    """Raises InputError unless a checkpoint was trained on these classes, in this order."""
    stored, ours = meta["class_names"], list(parts.batches.class_names)
    if stored != ours:
        raise config.InputError(
            f"the checkpoint knows {len(stored)} classes ({', '.join(stored[:3])} ...), data.train "
            f"has {len(ours)} ({', '.join(ours[:3])} ...); use data with the same classes in order."
        )


def count_devices(run: config.Run) -> int:
    """Devices of all processes together; starts JAX as the run will."""
    parallel.start(run.deterministic)
    return jax.device_count()


def stored_form(parts: Parts, abstract: Any) -> Any:
    """Shapes and shardings of a state as checkpoints hold it: layers side by side."""
    return parallel.with_shardings(models.unstack_layers(abstract), parts.mesh)


def to_stored(parts: Parts, state: Any) -> Any:
    """A state in the form of checkpoints."""
    if not parts.model.scan:
        return state
    return parallel.relayout(models.unstack_layers, state, parts.mesh)


def from_stored(parts: Parts, state: Any) -> Any:
    """A checkpoint's state in the form of the model."""
    if not parts.model.scan:
        return state
    return parallel.relayout(models.stack_layers, state, parts.mesh)


def init_params(parts: Parts, params: Any) -> tuple[Any, str]:
    """The parameters to start from, and a line that says which: those of `run.init`, a checkpoint
    or published weights, as `run.init_rules` fit them to the model, and of `params`, freshly drawn,
    what the rules leave out.

    Raises:
        InputError: see checkpoint.transfer_params and weights.load.
    """
    run = parts.run
    own = to_stored(parts, params)
    abstract = stored_form(parts, jax.eval_shape(lambda: params))
    change = functools.partial(resize_leaf, parts.model)
    if weights.holds_weights(run.init):
        found, told = weights.start_from(run, abstract, change)
    else:
        found, told = checkpoint.transfer_params(run.init, abstract, run.init_rules, change), ""
    merged = jax.tree.map_with_path(
        lambda path, x: found.leaves.get(parallel.path_name(path), x), own
    )
    return from_stored(parts, merged), f"started from {run.init}: {told}{found.describe()}"


def check_init(run: config.Run) -> None:
    """Raises InputError where `run.init` holds nothing to start from."""
    if weights.holds_weights(run.init):
        weights.check_start(run)
    else:
        checkpoint.find(run.init)


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
    tower = getattr(model, "img", model)
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
    return jax.eval_shape(parts.task.init, jax.random.key(0))


def train_flops(parts: Parts) -> int:
    """Analytic FLOPs to train on one image."""
    model = parts.model
    rows, columns = patch_grid(
        model.image_shape[:2], model.patch, model.patch_stride, model.drop_edge
    )
    patches = rows * columns
    kept = max(1, round(patches * (1 - model.patch_dropout)))  # what the blocks see in training
    return report.train_flops(
        width=model.width,
        depth=model.depth,
        mlp_dim=model.block.mlp_dim,
        patches=patches,
        tokens=kept + model.class_token + model.distillation + model.registers,
        patch_dim=model.patch[0] * model.patch[1] * model.image_shape[2],
        classes=model.classes * (2 if model.distillation else 1),
        pool=model.pool,
        pre_logits=model.pre_logits,
        mlp_maps=3 if model.block.activation == GATED else 2,
    )
