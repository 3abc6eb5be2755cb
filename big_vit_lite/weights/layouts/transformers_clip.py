"""transformers' CLIPModel, and CLIP's image tower alone, with and without its projection."""

from typing import Any

from big_vit_lite import config
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import transformers as hf
from big_vit_lite.weights.preprocessing import Preprocessing, clip_text, with_text
from big_vit_lite.weights.rules import LINEAR, NUMBER, Rule, leading
from big_vit_lite.weights.sections import Known, Sections, image_section, text_section
from big_vit_lite.weights.sizes import image_sizes, text_size

VISION, TEXT = "vision_model", "text_model"
OLD_END = 2
"""transformers' old default of eos_token_id, which means the largest id of a text."""


def prefix_of(source: Source, name: str) -> str | None:
    """What stands before the image tower's names: transformers 5 leaves it out of a tower alone."""
    found = (prefix for prefix in (f"{VISION}.", "") if prefix + name in source.arrays)
    return next(found, None)


def fits(source: Source) -> bool:
    return prefix_of(source, "embeddings.class_embedding") is not None


def describe(source: Source, known: Known) -> Description:
    about = hf.config_of(source, "clip", "clip_vision_model")
    alone = f"{TEXT}.embeddings.token_embedding.weight" not in source.arrays
    image = hf.settings(about.get("vision_config", about if alone else {}), "clip_vision_model")
    section = image_section(
        hf.size_of(image),
        image["patch_size"],
        image["image_size"],
        channels=image["num_channels"],
        activation=hf.activation(image, source.path),
        norm_eps=image["layer_norm_eps"],
        position_grid=hf.grid_of(image),
        position_resample="cubic_torch",
        patch_bias=False,
        pre_norm=True,
        init="clip",
    )
    form = {"prefix": prefix_of(source, "embeddings.class_embedding")}
    features = source.shapes.get("visual_projection.weight", (None,))[0]
    found = hf.preprocessing_of(source)
    if alone:
        # Linen's head has a bias unless it is told: a tower alone is built by build_model.
        return Description(Sections(section.model_copy(update=_head(features))), found, form)
    text = hf.settings(about.get("text_config", {}), "clip_text_model")
    end = text["eos_token_id"]
    sections = Sections(
        section,
        text_section(
            hf.size_of(text),
            vocabulary=text["vocab_size"],
            length=text["max_position_embeddings"],
            activation=hf.activation(text, source.path),
            norm_eps=text["layer_norm_eps"],
            end_id=None if end in (OLD_END, text["vocab_size"] - 1) else end,
            init="clip",
        ),
        config.Joint(features=features, max_logit_scale=100.0),
    )
    if text["vocab_size"] == 49408:
        found = with_text(found, clip_text(text["max_position_embeddings"]))
    return Description(sections, found, form)


def _head(features: int | None) -> dict[str, Any]:
    return {"classes": features, "head_bias": None} if features else {"classes": None}


def rules(sections: Sections, form: Form) -> list[Rule]:
    alone = sections.text is None
    img, heads = "" if alone else "img/", image_sizes(sections.model)[0].heads
    p = form.get("prefix", f"{VISION}.")
    at = f"{p}embeddings"
    found = [
        Rule(f"{at}.class_embedding", (f"{img}cls",), leading(2)),
        Rule(f"{at}.position_embedding.weight", (f"{img}pos_embedding",), leading(1)),
        *tables.convolution(f"{at}.patch_embedding", f"{img}embedding"),
        *tables.norm(f"{p}pre_layrnorm", f"{img}pre_norm"),
        *tables.stack(
            f"{p}encoder.layers", f"{img}Transformer", heads, tables.TRANSFORMERS_CLIP,
            f"{p}post_layernorm",
        ),
        Rule("visual_projection.weight", (f"{img}head/kernel",), LINEAR),
    ]  # fmt: skip
    if alone:
        return found
    return [*found, *text_rules(text_size(sections.text).heads), *_joint_rules()]


def text_rules(heads: int) -> list[Rule]:
    at = f"{TEXT}.embeddings"
    return [
        Rule(f"{at}.token_embedding.weight", ("txt/Embed_0/embedding",)),
        Rule(f"{at}.position_embedding.weight", ("txt/pos_embedding",), leading(1)),
        *tables.stack(
            f"{TEXT}.encoder.layers", "txt/Encoder_0", heads, tables.TRANSFORMERS_CLIP,
            f"{TEXT}.final_layer_norm",
        ),
    ]  # fmt: skip


def _joint_rules() -> list[Rule]:
    return [
        Rule("text_projection.weight", ("txt/head/kernel",), LINEAR),
        Rule("logit_scale", ("t",), NUMBER),
    ]


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    size, patch = image_sizes(sections.model)
    vision = hf.image_settings(sections.model, size, patch)
    processor = hf.preprocessor(found, "CLIPImageProcessor", form)
    if sections.text is None:
        name, more = "CLIPVisionModel", {}
        if sections.model.classes:
            name, more = "CLIPVisionModelWithProjection", {"projection_dim": sections.model.classes}
        about = {"model_type": "clip_vision_model", "architectures": [name]} | vision | more
        return {"config.json": about} | processor
    text = sections.text
    end = text.vocabulary - 1 if text.end_id is None else text.end_id
    about = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": sections.joint.features,
        "vision_config": vision | {"model_type": "clip_vision_model"},
        "text_config": hf.tower_settings(text, text_size(text))
        | {
            "model_type": "clip_text_model", "vocab_size": text.vocabulary,
            "max_position_embeddings": text.length, "eos_token_id": end,
            "bos_token_id": max(end - 1, 0), "pad_token_id": min(1, text.vocabulary - 1),
        },
    }  # fmt: skip
    return {"config.json": about} | processor


LAYOUT = Layout(
    "L11",
    "transformers-clip",
    "transformers CLIP",
    fits,
    describe,
    rules,
    carried=(r"((vision|text)_model\.)?embeddings\.position_ids",),
    configs=configs,
    json=hf.JSON,
)
