"""transformers' DINOv2 with and without registers, its gated g/14 included, and its classifiers,
which read the class token and the mean patch."""

from typing import Any

import numpy as np

from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import transformers as hf
from big_vit_lite.weights.layouts.transformers_vit import prefix_of
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections, image_section
from big_vit_lite.weights.sizes import image_sizes

PLAIN, REGISTERS = "dinov2", "dinov2_with_registers"
CLASSES = {PLAIN: "Dinov2", REGISTERS: "Dinov2WithRegisters"}
PREFIXES = {PLAIN: ("", "dinov2."), REGISTERS: ("", "dinov2_with_registers.")}


def fits(kind: str):
    def fits(source: Source) -> bool:
        prefix = prefix_of(source, PREFIXES[kind])
        if prefix is None or f"{prefix}encoder.layer.0.norm1.weight" not in source.arrays:
            return False
        held = f"{prefix}embeddings.register_tokens" in source.arrays
        return held == (kind == REGISTERS)

    return fits


def describe(kind: str):
    def describe(source: Source, known: Known) -> Description:
        prefix = prefix_of(source, PREFIXES[kind])
        about = hf.settings(hf.config_of(source, kind), kind)
        gated = bool(about.get("use_swiglu_ffn"))
        hidden = int(about["hidden_size"] * about["mlp_ratio"])
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden
        classes = source.shapes.get("classifier.weight", (None,))[0]
        section = image_section(
            hf.size_of(about, hidden),
            about["patch_size"],
            about["image_size"],
            channels=about["num_channels"],
            activation="swiglu" if gated else hf.activation(about, source.path),
            norm_eps=about["layer_norm_eps"],
            qkv_bias=about.get("qkv_bias", True),
            layer_scale=about.get("layerscale_value", 1.0),
            classes=classes,
            pool="cls_gap" if classes else "cls",
            registers=about.get("num_register_tokens", 4) if kind == REGISTERS else 0,
            position_grid=hf.grid_of(about),
            position_resample="cubic" if kind == REGISTERS else "cubic_torch",
        )
        return Description(Sections(section), hf.preprocessing_of(source), {"prefix": prefix})

    return describe


def rules(sections: Sections, form: Form) -> list[Rule]:
    model, p = sections.model, _prefix(sections, form)
    return [
        Rule(f"{p}embeddings.cls_token", ("cls",)),
        Rule(f"{p}embeddings.register_tokens", ("registers",)),
        Rule(f"{p}embeddings.position_embeddings", ("pos_embedding",)),
        *tables.convolution(f"{p}embeddings.patch_embeddings.projection", "embedding"),
        *tables.stack(
            f"{p}encoder.layer", "Transformer", image_sizes(model)[0].heads,
            tables.TRANSFORMERS_DINO, f"{p}layernorm", model.activation == "swiglu",
        ),
        *tables.linear("classifier", "head"),
    ]  # fmt: skip


def _prefix(sections: Sections, form: Form) -> str:
    """A classifier's names have the model's before them."""
    model = sections.model
    kind = REGISTERS if model.registers else PLAIN
    return form.get("prefix", f"{kind}." if model.classes else "")


def configs(kind: str):
    def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
        model = sections.model
        size, patch = image_sizes(model)
        gated = model.activation == "swiglu"
        about = hf.image_settings(model, size, patch)
        del about["intermediate_size"]
        about |= hf.numbered(model.classes) | {
            "model_type": kind,
            "architectures": [
                f"{CLASSES[kind]}{'ForImageClassification' if model.classes else 'Model'}"
            ],
            "mlp_ratio": _ratio(size.width, size.mlp_dim, gated),
            "use_swiglu_ffn": gated,
            "qkv_bias": model.qkv_bias,
            "layerscale_value": model.layer_scale,
        }
        if kind == REGISTERS:
            about["num_register_tokens"] = model.registers
        return {"config.json": about} | hf.preprocessor(found, "BitImageProcessor", form)

    return configs


def _ratio(width: int, hidden: int, gated: bool) -> int:
    """transformers multiplies the width by a whole number, for gated MLPs by 2/3 of it."""
    ratio = round(hidden * (3 / 2 if gated else 1) / width)
    return max(ratio, 1)


def filler(sections: Sections, form: Form) -> dict[str, np.ndarray]:
    """The token that stands for masked patches in training, which our model has not."""
    name = f"{_prefix(sections, form)}embeddings.mask_token"
    return {name: np.zeros((1, image_sizes(sections.model)[0].width), np.float32)}


def _layout(number: str, kind: str, title: str) -> Layout:
    return Layout(
        number, f"transformers-{kind}".replace("_", "-"), title, fits(kind), describe(kind), rules,
        carried=(rf"({kind}\.)?embeddings\.mask_token",), configs=configs(kind), filler=filler,
        json=hf.JSON, names=(hf.names_of, hf.labels),
    )  # fmt: skip


LAYOUT = _layout("L13", PLAIN, "transformers DINOv2")
WITH_REGISTERS = _layout("L14", REGISTERS, "transformers DINOv2 with registers")
