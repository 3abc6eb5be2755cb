"""What the name of a timm architecture says of it and its arrays do not."""

import re
from typing import Any

TANH = re.compile(
    r"vit_(giantopt_patch\d+|so400m_patch16|base_patch32|large_patch16)_siglip(_gap)?_(\d+)"
)
"""SigLIP towers with the tanh form; for large_patch16 only at 512 pixels. All others have erf."""
PER_HEAD = (
    (r"vit_giant_patch14_(dinov2|reg\d_)", 64),
    (r"vit_giant_patch14_reg4_dinov2", 64),
    (r"vit_base_patch16_gap_224", 48),
    (r"vit_giantopt_", 96),
    (r"vit_gigantic_", 104),
    (r"vit_giant_", 88),
    (r"(vit|deit3)_huge_", 80),
    (r"vit_so400m_", 72),
    (r".*", 64),
)
"""Features of a head by the name's beginning; the first that is found counts."""


def architecture_facts(name: str, where: Any) -> dict[str, Any]:
    """Form of GELU, epsilon, features of a head, and whether class tokens have no position.

    A name may carry a tag behind a dot, which says which weights it has, not what it is.
    """
    name = name.split(".")[0]
    tanh = TANH.fullmatch(name)
    if tanh and tanh[1] == "large_patch16":
        tanh = tanh[3] == "512"
    if tanh and tanh is not True and tanh[1] == "base_patch32":
        tanh = tanh[3] == "256"
    clip = "_clip_" in name
    activation = "quick" if "quickgelu" in name else "tanh" if tanh else "erf"
    return {
        "activation": activation,
        "norm_eps": 1e-5 if clip else 1e-6,
        "per_head": next(n for pattern, n in PER_HEAD if re.match(pattern, name)),
        "no_embed_class": name.startswith("deit3_") or re.search(r"_reg\d", name) is not None,
    }
