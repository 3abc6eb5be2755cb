"""The optimiser of a run as one optax chain: clip, precondition, decay, rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vit_lite import config
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

    def in_steps(duration) -> int:
        return config.steps_of(duration, run, examples, steps)

    rise, fall = in_steps(o.warmup), in_steps(o.cooldown)
    if rise + fall > steps:
        raise config.InputError(
            f"optim.warmup is {rise:,} steps and optim.cooldown {fall:,}, more than the {steps:,} "
            'steps of the run; set them as a share, such as --config.optim.warmup="5%".'
        )
    lr = make_schedule(
        o.schedule,
        o.lr,
        steps,
        warmup=rise,
        cooldown=fall,
        timescale=in_steps(o.rsqrt_timescale),
        end_lr=o.end_lr,
    )
    if o.name == "sgd":
        direction = optax.trace(o.momentum, o.nesterov)
    else:
        direction = optax.scale_by_adam(o.b1, o.b2, o.eps, mu_dtype=jnp.dtype(o.mu_dtype))
    if o.name == "muon":
        direction = muon_or_adam(params, direction, o.momentum, jnp.dtype(o.mu_dtype))
    parts = [] if o.clip_norm is None else [optax.clip_by_global_norm(o.clip_norm)]
    parts.append(direction)
    if o.weight_decay:
        decay = multipliers(params, o.decay_rules, "optim.decay_rules")
        parts.append(decay_weights(o.weight_decay, decay))
    parts.append(scale_by_tree(multipliers(params, o.lr_rules, "optim.lr_rules")))
    parts.append(optax.scale_by_learning_rate(lr))
    float16 = run.model.dtype == "float16"
    return Optimizer(
        optax.chain(*parts),
        lr,
        o.accumulate,
        o.ema,
        loss_scale=o.loss_scale == "dynamic" or (o.loss_scale == "auto" and float16),
        skip_nonfinite=o.skip_nonfinite > 0,
        offload=o.offload,
    )
