"""The training step: gradient, update, average; jit-compiled over a mesh with the state donated.

Everything is a pure function of (state, batch). The state is one dict: step, params, opt_state, ema
where an average is kept, and loss_scale where float16 asks for it. Every random key is
fold_in(fold_in(seed, step), purpose), so a step depends on nothing but the state and its batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from big_vit_lite.parallel import nonfinite
from big_vit_lite.parallel.mesh import constrain, replicated
from big_vit_lite.parallel.offload import is_on_host, offloaded, on_device
from big_vit_lite.parallel.rules import with_shardings
from big_vit_lite.parallel.runtime import (
    compiler_options,
    quick_compiler_options,
    return_freed_memory,
)

State = dict[str, Any]
Batch = dict[str, jax.Array]
# What a key is for; the numbers are part of every run's result and never change.
PREPARE, LOSS = 0, 1
TEACHER = "teacher"
"""The part of a state that is read and never changes, and is in no checkpoint."""


class Task(Protocol):
    """What is learned."""

    def init(self, key: jax.Array) -> Any: ...
    def prepare(self, batch: Batch, key: jax.Array) -> Batch: ...
    def loss(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        """The loss and what is logged beside it. Metrics named "statistics" are no numbers but
        running statistics of batch norms, which `with_statistics(params, statistics)` takes over.

        A loss that compares the examples of a batch with each other is no mean over its parts; such
        a task has in_parts(parts, lock, scale), which gives f(params, batch, key) -> ((loss times
        scale, (loss, metrics)), gradient) for the whole batch.
        """
        ...


class Optimizer(Protocol):
    """How parameters move; built by `optim.build`."""

    accumulate: int
    ema: float | None
    loss_scale: bool  # found anew as training goes, for float16
    skip_nonfinite: bool  # updates are left out where loss or gradient is not finite
    offload: bool  # its state is in the host's memory between steps

    def lock(self, params: Any) -> Any: ...  # the same, without gradient where nothing trains

    def init(self, params: Any) -> Any: ...
    def update(self, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]: ...
    def lr(self, updates: jax.Array) -> jax.Array: ...
    def updates(self, opt_state: Any) -> jax.Array: ...


class Training(NamedTuple):
    """A run's two compiled functions and the shapes they work on."""

    init: Callable[..., State]  # a fresh state, born sharded; of the parameters it is given, if any
    step: Callable[[State, Batch], tuple[State, dict]]  # donates the state it is given
    abstract: State  # ShapeDtypeStructs with shardings
    compiled: Any  # the step's jax.stages.Compiled: memory_analysis(), as_text()
    earlier: tuple[tuple[int, Any], ...] = ()  # (last step, compiled) of steps on smaller images

    def at(self, step: int) -> Callable[[State, Batch], tuple[State, dict]]:
        """The function of step `step`, counted from 1."""
        return next((compiled for last, compiled in self.earlier if step <= last), self.step)


def gradients(
    task: Task,
    params,
    batch: Batch,
    key: jax.Array,
    accumulate: int,
    scale: jax.Array | float = 1.0,
    lock: Callable[[Any], Any] = lambda params: params,
):
    """Loss, metrics and gradients of the mean over a batch, in `accumulate` equal parts.

    Gradients are computed of `scale` times the loss, and divided by it.

    The gradient is the whole batch's to rounding. Part j takes rows j, j + accumulate, ...: every
    device then holds an equal share of each part, and nothing moves between devices.

    Args:
        lock: stops the gradient of parameters that do not train.
    """

    def scaled_loss(params, batch, key):
        loss, metrics = task.loss(lock(params), batch, key)
        return loss * scale, (loss, metrics)

    whole = accumulate > 1 and hasattr(task, "in_parts")
    differentiate = (
        task.in_parts(accumulate, lock, scale)
        if whole
        else jax.value_and_grad(scaled_loss, has_aux=True)
    )

    def value_and_grad(params, batch, key):
        (_, (loss, metrics)), grads = differentiate(params, batch, key)
        return loss, metrics, jax.tree.map(lambda g: g / scale, grads)

    if accumulate == 1 or whole:
        return value_and_grad(params, batch, key)
    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), batch
    )

    def add_part(total, part_and_index):
        part, index = part_and_index
        part = jax.tree.map(constrain, part)
        found = value_and_grad(params, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, found), None

    shapes = jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add_part, zeros, (parts, jnp.arange(accumulate)))
    return jax.tree.map(lambda x: x / accumulate, total)


def average(ema, params, decay: float, step: jax.Array):
    """Exponential moving average of parameters; the decay warms up as (1 + step) / (10 + step),
    so that early weights, which are mostly initialisation, are forgotten."""
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + (1.0 - rate) * (new - old), ema, params)


def first_state(params, optimizer: Optimizer) -> State:
    """The state before any step."""
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "opt_state": optimizer.init(params),
    }
    if optimizer.ema is not None:
        state["ema"] = jax.tree.map(jnp.copy, params)
    if optimizer.loss_scale:
        state["loss_scale"] = nonfinite.first_scale()
    return state


def make_functions(task: Task, optimizer: Optimizer, seed: int):
    """(init, step) as plain functions, before any jit: init() -> state, step(state, batch)."""

    def init() -> State:
        return first_state(task.init(jax.random.key(seed)), optimizer)

    def step(state: State, batch: Batch) -> tuple[State, dict]:
        params = state["params"]
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        with jax.named_scope("prepare"):
            batch = task.prepare(batch, jax.random.fold_in(key, PREPARE))
        if TEACHER in state:
            with jax.named_scope("teacher"):
                batch = task.teach(state[TEACHER], batch)
        scale = state["loss_scale"]["scale"] if optimizer.loss_scale else 1.0
        loss, metrics, grads = gradients(
            task,
            params,
            batch,
            jax.random.fold_in(key, LOSS),
            optimizer.accumulate,
            scale,
            optimizer.lock,
        )
        statistics = metrics.pop("statistics", None)
        metrics = metrics | {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "lr": optimizer.lr(optimizer.updates(state["opt_state"])),
        }
        finite = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"])
        with jax.named_scope("update"):
            if optimizer.offload:
                state = state | {"opt_state": on_device(state["opt_state"])}
            updates, opt_state = optimizer.update(grads, state["opt_state"], params)
            updated = optax.apply_updates(params, updates)
            if statistics is not None:
                updated = task.with_statistics(updated, statistics)
            new = {"step": state["step"] + 1, "params": updated, "opt_state": opt_state}
            if optimizer.ema is not None:
                new["ema"] = average(state["ema"], new["params"], optimizer.ema, state["step"])
            if optimizer.loss_scale or optimizer.skip_nonfinite:
                new = nonfinite.update_where(finite, new, state)
        if optimizer.loss_scale:
            new["loss_scale"] = nonfinite.next_scale(state["loss_scale"], finite)
            metrics["loss_scale"] = scale
            metrics["overflow"] = nonfinite.is_overflow(scale, loss, metrics["grad_norm"])
        if TEACHER in state:
            new[TEACHER] = state[TEACHER]
        return new, metrics

    return init, step


def abstract_state(task: Task, optimizer: Optimizer, mesh: Mesh, seed: int = 0) -> State:
    """Shapes, types and shardings of a training state, of which nothing exists yet.

    With a teacher its parameters are there, too. `Training.init` does not make them: they are read.
    """
    init, _ = make_functions(task, optimizer, seed)
    # Outside set_mesh: initialisation traces a batch of one image, which does not divide.
    abstract = jax.eval_shape(init)
    teacher = getattr(task, TEACHER, None)
    if teacher is not None:
        abstract[TEACHER] = jax.eval_shape(teacher.init, jax.random.key(0))
    abstract = with_shardings(abstract, mesh)
    if optimizer.offload:
        abstract["opt_state"] = offloaded(abstract["opt_state"], mesh)
    return abstract


def compile_training(
    task: Task,
    optimizer: Optimizer,
    mesh: Mesh,
    batch: dict[str, jax.ShapeDtypeStruct],
    seed: int,
    earlier: Sequence[tuple[int, Task]] = (),
) -> Training:
    """Shards and compiles a task's training step for a mesh and a batch shape.

    Args:
        batch: global shapes with their shardings, as `stream.spec` gives them.
        earlier: (last step, task) pairs in order: steps up to the last one are those of that task,
            which has the same parameters. For images that grow.

    Returns:
        Training. Initial values are the same on every mesh; no device ever holds the whole state.
    """
    abstract = abstract_state(task, optimizer, mesh, seed)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def compile_step(task: Task) -> Any:
        _, step = make_functions(task, optimizer, seed)
        with jax.set_mesh(mesh):
            return (
                jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
                .lower(abstract, batch)
                .compile(compiler_options(mesh))
            )

    compiled = compile_step(task)
    smaller = tuple((last, compile_step(other)) for last, other in earlier)
    return_freed_memory()
    born = {name: x for name, x in shardings.items() if name != TEACHER}
    # Two programs: drawing parameters takes three times their memory, which is free again when the
    # optimiser's state comes.
    once = quick_compiler_options(mesh)
    draw = jax.jit(task.init, out_shardings=shardings["params"], compiler_options=once)
    begin = jax.jit(
        lambda params: first_state(params, optimizer),
        donate_argnums=0,
        out_shardings=born,
        compiler_options=once,
    )

    def init_sharded(params=None) -> State:
        params = draw(jax.random.key(seed)) if params is None else params
        state = jax.block_until_ready(begin(params))
        return_freed_memory()
        return state

    return Training(init_sharded, compiled, abstract, compiled, smaller)


def shard_bytes(abstract) -> int:
    """Bytes of a sharded tree that lie on one device, and not in the host's memory."""
    total = 0
    for leaf in jax.tree.leaves(abstract):
        if is_on_host(leaf):
            continue
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        size = jnp.dtype(leaf.dtype).itemsize
        for n in shape:
            size *= n
        total += size
    return total
