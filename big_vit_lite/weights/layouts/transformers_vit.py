"""transformers' ViT and DeiT: without head, with its pooler, with a classifier or DeiT's two."""

from typing import Any

from big_vit_lite.config import InputError
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import transformers as hf
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections, image_section
from big_vit_lite.weights.sizes import image_sizes

QUERY = "encoder.layer.0.attention.attention.query.weight"
PIXELS = "decoder.decoder_embed.weight"
DISTILLED = "embeddings.distillation_token"
HEADS = {"vit": ("classifier",), "deit": ("cls_classifier", "distillation_classifier")}


def prefix_of(source: Source, names: tuple[str, ...]) -> str | None:
    """What stands before all names of the model itself; None: it is none of `names`."""
    found = (prefix for prefix in names if prefix + QUERY in source.arrays)
    return next(found, None)


def kind_of(source: Source) -> str | None:
    """model_type in the config.json beside the weights; None where nothing says it."""
    return source.configs.get("config.json", {}).get("model_type")


def fits_vit(source: Source) -> bool:
    prefix = prefix_of(source, ("", "vit."))
    plain = prefix is not None and prefix + DISTILLED not in source.arrays
    # MAE's encoder has the same names.
    plain = plain and kind_of(source) != "vit_mae" and PIXELS not in source.arrays
    return plain and f"{prefix}encoder.layer.0.layernorm_before.weight" in source.arrays


def fits_deit(source: Source) -> bool:
    prefix = prefix_of(source, ("", "deit."))
    return prefix is not None and prefix + DISTILLED in source.arrays


def describe_vit(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, ("", "vit."))
    section, found = described(source, prefix, "vit", "vit")
    fields: dict[str, Any] = {}
    if "classifier.weight" in source.arrays:
        fields["classes"] = source.shapes["classifier.weight"][0]
    pooler = f"{prefix}pooler.dense.weight"
    if pooler in source.arrays:
        about = source.config("config.json")
        if about.get("pooler_act", "tanh") != "tanh":
            raise InputError(f"{source.path}: config.json has a pooler_act that is not tanh.")
        fields["pre_logits"] = source.shapes[pooler][0]
        if "classes" in fields:
            raise InputError(f"{source.path} holds both a pooler and a classifier beside it.")
    return Description(Sections(section.model_copy(update=fields)), found, {"prefix": prefix})


def describe_deit(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, ("", "deit."))
    section, found = described(source, prefix, "deit", "vit")
    fields: dict[str, Any] = {"distillation": True}
    single, double = "classifier.weight", "cls_classifier.weight"
    if head := next((name for name in (single, double) if name in source.arrays), None):
        fields |= {"classes": source.shapes[head][0], "distillation_head": head == double}
    return Description(Sections(section.model_copy(update=fields)), found, {"prefix": prefix})


def described(source: Source, prefix: str, kind: str, defaults: str):
    """The section of the image tower of a model_type, and its preprocessing."""
    about = hf.settings(hf.config_of(source, kind), defaults)
    section = image_section(
        hf.size_of(about),
        about["patch_size"],
        about["image_size"],
        channels=about["num_channels"],
        activation=hf.activation(about, source.path),
        norm_eps=about["layer_norm_eps"],
        qkv_bias=about.get("qkv_bias", True),
        position_grid=hf.grid_of(about),
        position_resample="cubic_torch",
    )
    return section, hf.preprocessing_of(source)


def rules(sections: Sections, form: Form) -> list[Rule]:
    model = sections.model
    kind = "deit" if model.distillation else "vit"
    p, heads = form.get("prefix", f"{kind}."), image_sizes(model)[0].heads
    found = [*encoder_rules(p, "", heads), *tables.linear(f"{p}pooler.dense", "pre_logits")]
    names = HEADS[kind if model.distillation_head else "vit"]
    for theirs, ours in zip(names, ("head", "head_dist"), strict=False):
        found += tables.linear(theirs, ours)
    return found


def encoder_rules(p: str, ours: str, heads: int) -> list[Rule]:
    """All but the heads; what stands before their names and before ours."""
    return [
        Rule(f"{p}embeddings.cls_token", (f"{ours}cls",)),
        Rule(f"{p}embeddings.distillation_token", (f"{ours}dist",)),
        Rule(f"{p}embeddings.position_embeddings", (f"{ours}pos_embedding",)),
        *tables.convolution(f"{p}embeddings.patch_embeddings.projection", f"{ours}embedding"),
        *tables.stack(
            f"{p}encoder.layer", f"{ours}Transformer", heads, tables.TRANSFORMERS_VIT,
            f"{p}layernorm",
        ),
    ]  # fmt: skip


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    model = sections.model
    kind = "deit" if model.distillation else "vit"
    size, patch = image_sizes(model)
    names = {
        "vit": ("ViTModel", "ViTForImageClassification"),
        "deit": ("DeiTModel", "DeiTForImageClassificationWithTeacher"),
    }
    single = "" if model.distillation_head else "WithTeacher"
    about = hf.image_settings(model, size, patch) | hf.numbered(model.classes)
    about |= {
        "model_type": kind,
        "architectures": [names[kind][bool(model.classes)].removesuffix(single)],
        "qkv_bias": model.qkv_bias,
        "pooler_output_size": model.pre_logits or size.width,
        "pooler_act": "tanh",
    }
    return {"config.json": about} | hf.preprocessor(found, "ViTImageProcessor", form)


VIT = Layout(
    "L09", "transformers-vit", "transformers ViT", fits_vit, describe_vit, rules,
    carried=(r"(vit\.)?embeddings\.mask_token",), configs=configs,
    json=hf.JSON, names=(hf.names_of, hf.labels),
)  # fmt: skip
DEIT = Layout(
    "L10", "transformers-deit", "transformers DeiT with distillation token", fits_deit,
    describe_deit, rules, carried=(r"(deit\.)?embeddings\.mask_token",), configs=configs,
    json=hf.JSON, names=(hf.names_of, hf.labels),
)  # fmt: skip
