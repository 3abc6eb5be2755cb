"""Floating-point operations of a model: the numerator of MFU.

From the sizes of a Vision Transformer, or counted in a traced program of any model. Only matrix
products count, two operations a multiply-add, as in PaLM's appendix B (Chowdhery 2022). XLA's own
count cannot replace it: it counts the body of a scan once.
"""

import math


def forward_flops(
    *,
    width: int,
    depth: int,
    mlp_dim: int,
    patches: int,
    tokens: int,
    patch_dim: int,
    classes: int,
    pool: str = "cls",
    pre_logits: int = 0,
    mlp_maps: int = 2,
    stem: int = 0,
) -> int:
    """FLOPs of one image's forward pass.

    Args:
        width: features of a token.
        depth: blocks.
        mlp_dim: hidden features of a block's MLP.
        patches: patches of the image.
        tokens: length of the sequence: patches, class tokens and registers.
        patch_dim: values in a patch, height x width x channels.
        classes: outputs, of all heads together; 0: no head.
        pool: "map" has an attention head with an MLP (So400m, SigLIP), "none" a head a token,
            "cls_gap" two vectors side by side.
        pre_logits: features of the layer before the head; 0: none.
        mlp_maps: linear maps of an MLP, 3 where one is a gate.
        stem: FLOPs of what makes the maps that patches are cut from.
    """
    embed = 2 * patches * patch_dim * width
    projections = 2 * tokens * width * 4 * width  # query, key, value, out
    attention = 2 * 2 * tokens * tokens * width  # scores and weighted values
    mlp = 2 * mlp_maps * tokens * width * mlp_dim
    heads = 0
    if pool == "map":  # one query; keys and values of all tokens
        heads += 2 * width * 2 * width * (tokens + 1) + 2 * 2 * tokens * width
        heads += 2 * mlp_maps * width * mlp_dim
    outputs = tokens if pool == "none" else 1
    pooled = 2 * width if pool == "cls_gap" else width
    heads += 2 * outputs * (pooled * pre_logits + (pre_logits or pooled) * classes)
    return stem + embed + depth * (projections + attention + mlp) + heads


def count_flops(jaxpr) -> int:
    """FLOPs of the matrix products and convolutions of a traced program (jax.make_jaxpr).

    Loops of known length count as often as they turn; programs inside programs count.
    """
    return sum(_equation_flops(equation) for equation in _plain(jaxpr).eqns)


def _plain(jaxpr):
    return getattr(jaxpr, "jaxpr", jaxpr)


def _equation_flops(equation) -> int:
    name, outputs = equation.primitive.name, equation.outvars  # none where nobody needs them
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        products = math.prod(outputs[0].aval.shape)
        return 2 * products * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        output_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(outputs[0].aval.shape) * math.prod(kernel) // output_features
    turns = equation.params["length"] if name == "scan" else 1
    inner = 0
    for value in equation.params.values():
        for sub in value if isinstance(value, tuple | list) else (value,):
            if hasattr(_plain(sub), "eqns"):
                inner += count_flops(sub)
    return turns * inner
