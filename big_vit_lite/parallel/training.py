"""The training step: gradient, update, average; jit-compiled over a mesh with the state donated.

Everything is a pure function of (state, batch). The state is one dict: step, params, opt_state, ema
where an average is kept, and loss_scale where float16 asks for it. Every random key is
fold_in(fold_in(seed, step), purpose), so a step depends on nothing but the state and its batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from big_vit_lite.parallel import nonfinite
from big_vit_lite.parallel.mesh import constrain, replicated
from big_vit_lite.parallel.offload import is_on_host, offloaded, on_device
from big_vit_lite.parallel.rules import with_shardings
from big_vit_lite.parallel.runtime import compiler_options, return_freed_memory

State = dict[str, Any]
Batch = dict[str, jax.Array]
# What a key is for; the numbers are part of every run's result and never change.
PREPARE, LOSS = 0, 1


class Task(Protocol):
    """What is learned."""

    def init(self, key: jax.Array) -> Any: ...
    def prepare(self, batch: Batch, key: jax.Array) -> Batch: ...
    def loss(self, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]: ...


class Optimizer(Protocol):
    """How parameters move; built by `optim.build`."""

    accumulate: int
    ema: float | None
    loss_scale: bool  # found anew as training goes, for float16
    skip_nonfinite: bool  # updates are left out where loss or gradient is not finite
    offload: bool  # its state is in the host's memory between steps

    def init(self, params: Any) -> Any: ...
    def update(self, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]: ...
    def lr(self, updates: jax.Array) -> jax.Array: ...
    def updates(self, opt_state: Any) -> jax.Array: ...


class Training(NamedTuple):
    """A run's two compiled functions and the shapes they work on."""

    init: Callable[[], State]  # a fresh state, born sharded
    step: Callable[[State, Batch], tuple[State, dict]]  # donates the state it is given
    abstract: State  # ShapeDtypeStructs with shardings
    compiled: Any  # the step's jax.stages.Compiled: memory_analysis(), as_text()


def gradients(
    task: Task,
    params,
    batch: Batch,
    key: jax.Array,
    accumulate: int,
    scale: jax.Array | float = 1.0,
):
    """Loss, metrics and gradients of the mean over a batch, in `accumulate` equal parts.

    Gradients are computed of `scale` times the loss, and divided by it.

    Losses that are means over examples give the whole batch's gradient to rounding. Part j takes
    rows j, j + accumulate, ...: every device then holds an equal share of each part, and nothing
    moves between devices.
    """

    def scaled_loss(params, batch, key):
        loss, metrics = task.loss(params, batch, key)
        return loss * scale, (loss, metrics)

    def value_and_grad(params, batch, key):
        (_, (loss, metrics)), grads = jax.value_and_grad(scaled_loss, has_aux=True)(
            params, batch, key
        )
        return loss, metrics, jax.tree.map(lambda g: g / scale, grads)

    if accumulate == 1:
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
        scale = state["loss_scale"]["scale"] if optimizer.loss_scale else 1.0
        loss, metrics, grads = gradients(
            task, params, batch, jax.random.fold_in(key, LOSS), optimizer.accumulate, scale
        )
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
            new = {
                "step": state["step"] + 1,
                "params": optax.apply_updates(params, updates),
                "opt_state": opt_state,
            }
            if optimizer.ema is not None:
                new["ema"] = average(state["ema"], new["params"], optimizer.ema, state["step"])
            if optimizer.loss_scale or optimizer.skip_nonfinite:
                new = nonfinite.update_where(finite, new, state)
        if optimizer.loss_scale:
            new["loss_scale"] = nonfinite.next_scale(state["loss_scale"], finite)
            metrics["loss_scale"] = scale
            metrics["overflow"] = nonfinite.is_overflow(scale, loss, metrics["grad_norm"])
        return new, metrics

    return init, step


def abstract_state(task: Task, optimizer: Optimizer, mesh: Mesh, seed: int = 0) -> State:
    """Shapes, types and shardings of a training state, of which nothing exists yet."""
    init, _ = make_functions(task, optimizer, seed)
    # Outside set_mesh: initialisation traces a batch of one image, which does not divide.
    abstract = with_shardings(jax.eval_shape(init), mesh)
    if optimizer.offload:
        abstract["opt_state"] = offloaded(abstract["opt_state"], mesh)
    return abstract


def compile_training(
    task: Task, optimizer: Optimizer, mesh: Mesh, batch: dict[str, jax.ShapeDtypeStruct], seed: int
) -> Training:
    """Shards and compiles a task's training step for a mesh and a batch shape.

    Args:
        batch: global shapes with their shardings, as `stream.spec` gives them.

    Returns:
        Training. Initial values are the same on every mesh; no device ever holds the whole state.
    """
    _, step = make_functions(task, optimizer, seed)
    abstract = abstract_state(task, optimizer, mesh, seed)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
            .lower(abstract, batch)
            .compile(compiler_options(mesh))
        )
    return_freed_memory()
    # Two programs: drawing parameters takes three times their memory, which is free again when the
    # optimiser's state comes.
    draw = jax.jit(task.init, out_shardings=shardings["params"])
    begin = jax.jit(
        lambda params: first_state(params, optimizer), donate_argnums=0, out_shardings=shardings
    )

    def init_sharded() -> State:
        state = jax.block_until_ready(begin(draw(jax.random.key(seed))))
        return_freed_memory()
        return state

    return Training(init_sharded, compiled, abstract, compiled)


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
