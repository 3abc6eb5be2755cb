"""The optimiser of a run as one optax chain: clip, precondition, decay, rate."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vit_lite import config
from big_vit_lite.optim import rules
from big_vit_lite.optim.muon import muon_or_adam
from big_vit_lite.optim.rules import multipliers
from big_vit_lite.optim.schedules import Schedule, make_schedule


class Optimizer(NamedTuple):
    """An optax transformation with what the step and the report want to know besides.

    `update` returns (updates, new state), to be added to the parameters. `lr` is a function of the
    number of updates made, which is the step but for updates that were left out.
    """

    transformation: optax.GradientTransformation
    lr: Schedule
    accumulate: int
    ema: float | None
    loss_scale: bool = False
    skip_nonfinite: bool = False
    offload: bool = False
    factors: Any = None  # of the learning rate, as optim.lr_rules has them; 0 locks

    def lock(self, params: Any) -> Any:
        """The parameters, without gradient where nothing trains."""
        return params if self.factors is None else rules.lock(params, self.factors)

    def init(self, params: Any) -> Any:
        return self.transformation.init(params)

    def update(self, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        return self.transformation.update(grads, opt_state, params)

    def updates(self, opt_state: Any) -> jax.Array:
        """How many updates were made."""
        return opt_state[-1].count


def is_all(factor: float | np.ndarray, value: float) -> bool:
    """Whether a factor of `multipliers`, a number or one a layer, is `value` throughout."""
    return bool(np.all(factor == value))


def scale_by_tree(factors) -> optax.GradientTransformation:
    """Multiplies each leaf of the updates by its own constant."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, f: u if is_all(f, 1) else u * f, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_weights(rate: float, factors) -> optax.GradientTransformation:
    """Adds rate * factor * w to the updates, decoupled from the gradient (Loshchilov 2019)."""

    def update(updates, state, params=None):
        def add(u, w, f):
            return u if is_all(f, 0) else u + (rate * f) * w

        return jax.tree.map(add, updates, params, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def build(run: config.Run, params, steps: int, examples: int) -> Optimizer:
    """The optimiser that `run.optim` describes.

    Updates are -lr * lr_rule * (direction + weight_decay * decay_rule * w): the decay shrinks with
    the learning rate, as in torch's and optax's AdamW. (big_vision's decay is not multiplied by the
    base rate: its wd 1e-4 at lr 1e-3 is 0.1 here.)

    Args:
        params: parameters or their shapes; the rules are matched against their paths.
        steps: length of the run.
        examples: training examples in an epoch, for durations in epochs.

    Raises:
        InputError: rules that do not fit the parameters, or phases longer than the run.
    """
    o = run.optim
    lr = _schedule(run, steps, examples)
    if o.name == "sgd":
        direction = optax.trace(o.momentum, o.nesterov)
    else:
        direction = optax.scale_by_adam(o.b1, o.b2, o.eps, mu_dtype=jnp.dtype(o.mu_dtype))
    factors = multipliers(params, o.lr_rules, "optim.lr_rules")
    locked = rules.locked(factors)
    if all(jax.tree.leaves(locked)):
        raise config.InputError(
            "optim.lr_rules give every parameter the factor 0: nothing would be learned."
        )

    def moving(tree):
        return jax.tree.map(lambda x, out: optax.MaskedNode() if out else x, tree, locked)

    if o.name == "muon":
        direction = muon_or_adam(moving(params), direction, o.momentum, jnp.dtype(o.mu_dtype))
    parts = [] if o.clip_norm is None else [optax.clip_by_global_norm(o.clip_norm)]
    parts.append(direction)
    if o.weight_decay:
        decay = multipliers(params, o.decay_rules, "optim.decay_rules")
        decay = jax.tree.map(lambda f, out: 0.0 if out else f, decay, rules.statistics(params))
        parts.append(decay_weights(o.weight_decay, moving(decay)))
    parts.append(scale_by_tree(moving(factors)))
    if any(jax.tree.leaves(locked)):  # no moments for what never moves
        moves = jax.tree.map(operator.not_, locked)
        parts = [
            optax.masked(optax.chain(*parts), moves),
            optax.masked(optax.set_to_zero(), locked),
        ]
    parts.append(scale_by_schedules(lr, _own_schedules(run, params, steps, examples)))
    float16 = run.model.dtype == "float16"
    return Optimizer(
        optax.chain(*parts),
        lr,
        o.accumulate,
        o.ema,
        loss_scale=o.loss_scale == "dynamic" or (o.loss_scale == "auto" and float16),
        skip_nonfinite=o.skip_nonfinite > 0,
        offload=o.offload,
        factors=factors if any(np.any(f == 0) for f in jax.tree.leaves(factors)) else None,
    )


def scale_by_schedules(lr: Schedule, own: Any = None) -> optax.GradientTransformation:
    """Updates times -lr of the number of updates made.

    Args:
        own: a tree like the updates: a schedule in place of `lr`, or None. None: `lr` for all.
    """
    if own is None:
        return optax.scale_by_learning_rate(lr)

    def update(updates, state, params=None):
        rates = {schedule: schedule(state.count) for schedule in {lr, *jax.tree.leaves(own)}}
        scaled = jax.tree.map(lambda u, mine: -rates[mine] * u, updates, own)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    return optax.GradientTransformation(init, update)


def _schedule(run: config.Run, steps: int, examples: int, name: str = "") -> Schedule:
    """The learning rate of `run.optim`, or of its part `name`.

    Raises:
        InputError: phases longer than the run.
    """
    o, part = run.optim, run.optim.parts[name] if name else None

    def own(field: str):
        value = getattr(part, field, None)
        return getattr(o, field) if value is None else value

    def in_steps(duration) -> int:
        return config.steps_of(duration, run, examples, steps)

    begin = in_steps(part.begin) if part else 0
    rise, fall = in_steps(own("warmup")), in_steps(own("cooldown"))
    if begin + rise + fall > steps:
        key = f"optim.parts.{name}" if name else "optim"
        given = [own(name) for name in ("warmup", "cooldown") if own(name)]
        advice = f'set them as a share, such as --config.{key}.warmup="5%"'
        if all(str(duration).endswith("%") for duration in given):
            advice = "train longer"
        waits = f"{key}.begin is {begin:,} steps, " if begin else ""
        raise config.InputError(
            f"{waits}{key}.warmup is {rise:,} steps and {key}.cooldown {fall:,}, more than the "
            f"{steps:,} steps of the run; {advice}."
        )
    return make_schedule(
        own("schedule"),
        own("lr"),
        steps,
        warmup=rise,
        cooldown=fall,
        timescale=in_steps(o.rsqrt_timescale),
        end_lr=own("end_lr"),
        begin=begin,
    )


def _own_schedules(run: config.Run, params, steps: int, examples: int) -> Any:
    """A tree of schedules by `optim.parts`, the run's own for all else; None without parts.

    Raises:
        InputError: a part that is found in no parameter's name.
    """
    if not run.optim.parts:
        return None
    schedules = {name: _schedule(run, steps, examples, name) for name in run.optim.parts}
    order = list(schedules)
    pairs = [(part.match, order.index(name)) for name, part in run.optim.parts.items()]
    # As numbers, so that the layers of a stack are told apart in one place; the last is the rest.
    found = multipliers(params, [*pairs, (".*", len(order))], "optim.parts")
    by_number = [*schedules.values(), _schedule(run, steps, examples)]

    def one(path, number):
        if isinstance(number, np.ndarray):
            raise config.InputError(
                f"optim.parts tell layers of {path_name(path)} apart, and a scanned stack has one "
                "schedule: match whole towers, and use lr_rules for layers, or model.scan=False."
            )
        return by_number[int(number)]

    return jax.tree.map_with_path(one, found)
