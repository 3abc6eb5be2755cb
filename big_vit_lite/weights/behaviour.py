"""Whether two descriptions are of the same function of parameters and images of the native size.

How positions are resampled for other sizes is each library's own, and no file says it.
"""

from typing import Any

from big_vit_lite.models.sizes import RESNETS
from big_vit_lite.weights.sections import Sections
from big_vit_lite.weights.sizes import image_sizes, resnet_sizes, stem_sizes, text_size

MODEL = (
    "patch_stride",
    "patch_bias",
    "drop_edge",
    "channels",
    "pool",
    "pool_norm",
    "positions",
    "registers",
    "distillation",
    "distillation_head",
    "pre_norm",
    "activation",
    "norm_eps",
    "bias",
    "qkv_bias",
    "stem_norm_eps",
    "stem_standardize",
    "max_patches",
)
TEXT = (
    "vocabulary", "length", "causal", "pool", "end_id", "pad_id", "activation", "norm_eps",
)  # fmt: skip
JOINT = ("features", "projections", "projection_bias")
DECODER = ("queries", "pool_heads", "pad_shift")
RECONSTRUCTION = (
    "width", "depth", "heads", "mlp_dim", "positions", "mask_ratio", "normalize",
)  # fmt: skip

COMPARED = {
    "model": MODEL,
    "text": TEXT,
    "joint": JOINT,
    "decoder": DECODER,
    "reconstruction": RECONSTRUCTION,
}


def differences(ours: Sections, theirs: Sections) -> list[str]:
    """What the second does not say as the first does, as "model.activation erf"."""
    found = []
    for name, fields in COMPARED.items():
        left, right = getattr(ours, name), getattr(theirs, name)
        if left is None or right is None:
            if left is not right:
                found.append(f"section {name}")
            continue
        pairs = {field: (getattr(left, field), getattr(right, field)) for field in fields
                 if field in type(left).model_fields}  # fmt: skip
        pairs |= _derived(name, left, right)
        found += [f"{name}.{field} {a}" for field, (a, b) in pairs.items() if a != b]
    return found


def _derived(name: str, left: Any, right: Any) -> dict[str, tuple[Any, Any]]:
    """What several fields say together."""
    if name == "text":
        return {"sizes": (text_size(left), text_size(right))}
    if name != "model":
        return {}
    pairs = {
        "image_size": tuple(_side(x.image_size) for x in (left, right)),
        "classes": tuple(x.classes or 0 for x in (left, right)),
        "class_position": tuple(x.class_position or not x.has_class_token for x in (left, right)),
        "layer_scale": tuple(x.layer_scale is not None for x in (left, right)),
        "class_token": tuple(x.has_class_token for x in (left, right)),
        "head_bias": tuple(x.head_bias is not None or not x.classes for x in (left, right)),
    }
    pairs["sizes"] = tuple(_sizes(x) for x in (left, right))
    return pairs


def _side(size: Any) -> Any:
    """A square may be said by its side or by both."""
    return size[0] if isinstance(size, tuple) and len(set(size)) == 1 else size


def _sizes(model: Any) -> tuple:
    if model.variant in RESNETS:
        return resnet_sizes(model)
    return (*image_sizes(model), stem_sizes(model))
