"""transformers' SiglipModel, which SigLIP 2 files of fixed size are, too, and its image tower."""

from typing import Any

from big_vit_lite import config
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import transformers as hf
from big_vit_lite.weights.layouts.transformers_clip import TEXT, VISION, prefix_of, text_rules
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.rules import CONVOLUTION, SAME, Rule, leading
from big_vit_lite.weights.rules import Form as ArrayForm
from big_vit_lite.weights.sections import Known, Sections, image_section, text_section
from big_vit_lite.weights.sizes import image_sizes, text_size

PATCHES = "embeddings.patch_embedding.weight"


def fits(source: Source) -> bool:
    prefix = prefix_of(source, "head.probe")
    return prefix is not None and len(source.shapes.get(f"{prefix}{PATCHES}", ())) == 4


def describe(source: Source, known: Known) -> Description:
    about = hf.config_of(source, "siglip", "siglip_vision_model")
    alone = f"{TEXT}.embeddings.token_embedding.weight" not in source.arrays
    image = hf.settings(about.get("vision_config", about if alone else {}), "siglip_vision_model")
    size, patch = hf.pair(image["image_size"]), hf.pair(image["patch_size"])
    section = image_section(
        hf.size_of(image),
        image["patch_size"],
        image["image_size"],
        channels=image["num_channels"],
        activation=hf.activation(image, source.path),
        norm_eps=image["layer_norm_eps"],
        position_grid=hf.grid_of(image),
        position_resample="cubic_torch",
        pool="map",
        drop_edge=any(side % step for side, step in zip(size, patch, strict=True)),
    )
    found, form = hf.preprocessing_of(source), {"prefix": prefix_of(source, "head.probe")}
    sections = Sections(section) if alone else with_text(section, about, source)
    return Description(sections, found, form)


def with_text(section: config.Model, about: dict[str, Any], source: Source) -> Sections:
    """The image tower's section with those of the text tower and of what joins the two."""
    text = hf.settings(about.get("text_config", {}), "siglip_text_model")
    return Sections(
        section,
        text_section(
            hf.size_of(text),
            vocabulary=text["vocab_size"],
            length=text["max_position_embeddings"],
            activation=hf.activation(text, source.path),
            norm_eps=text["layer_norm_eps"],
            causal=False,
            pool="last",
        ),
        config.Joint(
            features=text.get("projection_size", text["hidden_size"]),
            projections="text",
            projection_bias=True,
            logit_scale=10.0,
            logit_bias=-10.0,
        ),
    )


def rules(sections: Sections, form: Form) -> list[Rule]:
    return tower_rules(sections, form, CONVOLUTION)


def tower_rules(sections: Sections, form: Form, patches: ArrayForm) -> list[Rule]:
    """One tower's table or both towers', with the form of the patches' kernel."""
    alone = sections.text is None
    img, heads = "" if alone else "img/", image_sizes(sections.model)[0].heads
    p = form.get("prefix", f"{VISION}.")
    at = f"{p}embeddings"
    found = [
        Rule(f"{at}.position_embedding.weight", (f"{img}pos_embedding",), leading(1)),
        Rule(f"{at}.patch_embedding.weight", (f"{img}embedding/kernel",), patches),
        Rule(f"{at}.patch_embedding.bias", (f"{img}embedding/bias",)),
        *tables.stack(
            f"{p}encoder.layers", f"{img}Transformer", heads, tables.TRANSFORMERS_CLIP,
            f"{p}post_layernorm",
        ),
        *tables.map_pool(f"{p}head", f"{img}MAPHead_0", heads),
    ]  # fmt: skip
    if alone:
        return found
    return [
        *found,
        *text_rules(text_size(sections.text).heads),
        *tables.linear(f"{TEXT}.head", "txt/head"),
        Rule("logit_scale", ("t",), SAME),
        Rule("logit_bias", ("b",), SAME),
    ]


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    vision = hf.image_settings(sections.model, *image_sizes(sections.model))
    processor = hf.preprocessor(found, "SiglipImageProcessor", form)
    return {"config.json": settings_of("siglip", vision, sections)} | processor


def settings_of(kind: str, vision: dict[str, Any], sections: Sections) -> dict[str, Any]:
    """The config.json of siglip or siglip2."""
    vision = vision | {"model_type": f"{kind}_vision_model"}
    if sections.text is None:
        return vision | {"architectures": [f"{kind.title()}VisionModel"]}
    text, last = sections.text, sections.text.vocabulary - 1
    return {
        "model_type": kind,
        "architectures": [f"{kind.title()}Model"],
        "vision_config": vision,
        "text_config": hf.tower_settings(text, text_size(text))
        | {
            "model_type": f"{kind}_text_model", "vocab_size": text.vocabulary,
            "max_position_embeddings": text.length, "projection_size": sections.joint.features,
            "pad_token_id": min(1, last), "bos_token_id": last, "eos_token_id": last,
        },
    }  # fmt: skip


LAYOUT = Layout(
    "L12",
    "transformers-siglip",
    "transformers SigLIP and SigLIP 2 of fixed size",
    fits,
    describe,
    rules,
    carried=(r"((vision|text)_model\.)?embeddings\.position_ids",),
    configs=configs,
    json=hf.JSON,
)
