"""Muon: momentum made orthogonal, for the matrices inside Transformer blocks (Jordan 2024).

Everything else (embeddings, positions, norms, biases, the head) keeps Adam. Updates are scaled to
the root mean square that Adam's have (0.2, Liu 2025, "Muon is scalable for LLM training"), so that
learning rates and decays carry over from AdamW.
"""

import math
import re

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from big_vit_lite.parallel.rules import STACKED, path_name

UPDATE_RMS = 0.2
# (path, axes that are contracted, axes that are produced): heads belong to the matrix they split.
MATRICES = (
    (r"encoderblock.*/(query|key|value)/kernel$", (0,), (1, 2)),
    (r"encoderblock.*/out/kernel$", (0, 1), (2,)),
    (r"encoderblock.*/Dense_\d/kernel$", (0,), (1,)),
)


def matrix_axes(name: str) -> MuonDimensionNumbers | None:
    """Which axes of a parameter make its matrix; None where Adam is used."""
    for pattern, inputs, outputs in MATRICES:
        if re.search(pattern, name):
            shift = 1 if STACKED.search(name) else 0  # each layer of a scanned stack by itself
            return MuonDimensionNumbers(
                tuple(i + shift for i in inputs), tuple(i + shift for i in outputs)
            )
    return None


def scale_to_adam() -> optax.GradientTransformation:
    """Gives orthogonal updates the size of Adam's: times 0.2 sqrt(max(fan in, fan out))."""

    def update(updates, state, params=None):
        def scale(path, u):
            axes = matrix_axes(path_name(path))
            inputs, outputs = (
                math.prod(u.shape[i] for i in group)
                for group in (axes.reduction_axis, axes.output_axis)
            )
            return u * (UPDATE_RMS * math.sqrt(max(inputs, outputs)))

        return jax.tree.map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def muon_or_adam(
    params, adam: optax.GradientTransformation, momentum: float, mu_dtype
) -> optax.GradientTransformation:
    """Muon with Nesterov momentum for the matrices in blocks, `adam` for the rest."""

    def axes(tree):
        return jax.tree.map_with_path(lambda path, _: matrix_axes(path_name(path)), tree)

    labels = jax.tree.map_with_path(
        lambda path, _: "adam" if matrix_axes(path_name(path)) is None else "muon", params
    )
    muon = optax.chain(
        scale_by_muon(beta=momentum, mu_dtype=mu_dtype, weight_dimension_numbers=axes),
        scale_to_adam(),
    )
    return optax.partition({"muon": muon, "adam": adam}, labels)
