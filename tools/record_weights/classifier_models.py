"""Classifiers of transformers that read more, or less, than others.

DINOv2's read the class token and the mean patch, DeiT's of one head the class token alone, beside
its distillation token.
"""

from common import CLASSES, Arrays
from transformers_models import EAGER, TOWER, _record

LOGITS = {"logits": lambda out: out.logits}


def _dinov2(seed: int, kind: str, **fields) -> Arrays:
    import transformers as hf

    sizes = {k: x for k, x in TOWER.items() if k != "intermediate_size"}
    about = getattr(hf, f"{kind}Config")(
        **sizes, mlp_ratio=2, num_labels=CLASSES, **fields, **EAGER
    )
    model = getattr(hf, f"{kind}ForImageClassification")(about)
    return _record(model, None, seed, LOGITS)


def dinov2(seed: int = 80) -> Arrays:
    return _dinov2(seed, "Dinov2")


def dinov2_with_registers(seed: int = 81) -> Arrays:
    return _dinov2(seed, "Dinov2WithRegisters", num_register_tokens=3)


def deit(seed: int = 82) -> Arrays:
    """One classifier, of the class token; the distillation token takes part and is not read."""
    import transformers as hf

    about = hf.DeiTConfig(**TOWER, num_labels=CLASSES, **EAGER)
    model = hf.DeiTForImageClassification(about)
    return _record(model, None, seed, LOGITS, interpolate_pos_encoding=True)


RECORDS = {
    "L13-classifier": dinov2,
    "L14-classifier": dinov2_with_registers,
    "L10-single": deit,
}
