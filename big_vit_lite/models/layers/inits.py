"""Initial values of a block's matrices and of its MLP's biases, by the recipe of their source.

xavier: AugReg and big_vision, SigLIP too. torch: PyTorch's own, which CLIP's image tower was left
with. clip: CLIP's text tower (Radford 2021), whose residual branches end in smaller values the
deeper the stack is.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer

RULES = ("xavier", "torch", "clip")


def kernel_init(rule: str, part: str, depth: int | None = None) -> Initializer:
    """How to draw a kernel (inputs, outputs).

    Args:
        part: qkv (each of the three), out, mlp_in or mlp_out.
        depth: blocks of the stack, for clip: what ends a branch shrinks with 1 / sqrt(2 depth).
            None where there is no branch.
    """
    if rule == "xavier":
        return nn.initializers.xavier_uniform()
    if rule == "torch":
        return _packed_xavier if part == "qkv" else torch_uniform()
    branch_end = 1.0 if depth is None else (2 * depth) ** -0.5

    def init(key, shape, dtype=jnp.float32):
        inputs, outputs = shape
        std = {
            "qkv": inputs**-0.5,
            "out": inputs**-0.5 * branch_end,
            "mlp_in": (2 * inputs) ** -0.5,
            "mlp_out": outputs**-0.5 * branch_end,
        }[part]
        return nn.initializers.normal(std)(key, shape, dtype)

    return init


def mlp_bias_init(rule: str, inputs: int) -> Initializer:
    """How to draw the bias of a linear map of `inputs` features in an MLP."""
    if rule == "xavier":
        return nn.initializers.normal(1e-6)
    bound = inputs**-0.5
    uniform = nn.initializers.uniform(2 * bound)
    return lambda key, shape, dtype=jnp.float32: uniform(key, shape, dtype) - bound


def torch_uniform() -> Initializer:
    """U(-a, a) with a = 1 / sqrt(inputs): PyTorch's linear maps and convolutions."""
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _packed_xavier(key, shape, dtype=jnp.float32):
    """Xavier-uniform of query, key and value as one matrix (inputs, 3 outputs)."""
    bound = (6 / (shape[0] + 3 * shape[1])) ** 0.5
    return nn.initializers.uniform(2 * bound)(key, shape, dtype) - bound
