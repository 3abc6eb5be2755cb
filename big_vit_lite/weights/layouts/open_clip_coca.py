"""open_clip's CoCa: CLIP's towers, a pool of queries, and the caption decoder."""

from typing import Any

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import open_clip
from big_vit_lite.weights.layouts import openai_clip as native
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.rules import NUMBER, SAME, Rule, leading, onto_heads
from big_vit_lite.weights.sections import Known, Sections, count
from big_vit_lite.weights.sizes import image_sizes, text_size

POOL, DECODER = "visual.attn_pool", "text_decoder"


def fits(source: Source) -> bool:
    return f"{POOL}.query" in source.arrays and "text.cls_emb" in source.arrays


def describe(source: Source, known: Known) -> Description:
    model, vision, text = open_clip.settings(source)
    if not model:
        source.config(open_clip.CONFIG)
    if vision.get("attentional_pool") is not True:
        raise InputError(
            f"{source.path}: CoCa's pool is one of queries; another is not known here."
        )
    if not text.get("embed_cls"):
        raise InputError(f"{source.path}: CoCa without a class token in its texts is unknown here.")
    shapes, decoder = source.shapes, model.get("multimodal_cfg", {})
    image = native.image_of(
        source,
        known,
        open_clip.activation_of(source, known, model, vision),
        open_clip.per_head(source, known, vision),
    )
    facts = Known(source.path, {"text_heads": text.get("heads", 8)} | known.values)
    texts = native.text_of(
        source,
        facts,
        "text.",
        open_clip.activation_of(source, known, model, text),
        pool="cls",
        pad_id=text.get("pad_id", 0),
        length=shapes["text.positional_embedding"][0] - 1,
    )
    known.asked |= facts.asked
    if decoder.get("heads", 8) != text_size(texts).heads:
        raise InputError(f"{source.path}: a decoder of other heads than the text tower's.")
    sections = Sections(
        image,
        texts,
        config.Joint(features=shapes["visual.proj"][1], max_logit_scale=100.0),
        config.Decoder(
            depth=count(shapes, f"{DECODER}.resblocks.{{i}}.ln_1.weight"),
            queries=shapes[f"{POOL}.query"][0],
            pool_heads=vision.get("attn_pooler_heads", 8),
            pad_shift=0 if text.get("correct_cls_mask") else 1,
        ),
    )
    return Description(sections, open_clip.preprocessing_of(source, sections))


def rules(sections: Sections, form: Form) -> list[Rule]:
    heads, text_heads = image_sizes(sections.model)[0].heads, text_size(sections.text).heads
    image = native.image_rules(sections.model, "img/", last=f"{POOL}.ln_k")
    return [
        *(rule for rule in image if rule.theirs != "visual.proj"),
        *_pool_rules(sections, heads),
        *native.text_rules(sections.text, "text.", bias=False),
        Rule("text.cls_emb", ("txt/cls",), leading(2)),
        *_decoder_rules(text_heads),
        Rule("logit_scale", ("t",), NUMBER),
        Rule("logit_bias", ("b",), NUMBER),
    ]


def _pool_rules(sections: Sections, heads: int) -> list[Rule]:
    at, theirs = "pool/" + tables.ATTENTION, f"{POOL}.attn"
    heads = sections.decoder.pool_heads
    parts = ("query", "key", "value")
    packed = tables.projections(f"{theirs}.in_proj_", at, parts, heads)
    if sections.joint.features != image_sizes(sections.model)[0].width:
        # torch keeps maps of inputs of several widths apart, and their biases together.
        apart = [
            Rule(f"{theirs}.{part[0]}_proj_weight", (f"{at}/{part}/kernel",), onto_heads(heads))
            for part in parts
        ]
        packed = [*apart, packed[1]]
    return [
        Rule(f"{POOL}.query", ("pool/queries",), leading(1)),
        *packed,
        *tables.merge(f"{theirs}.out_proj", f"{at}/out", heads),
        *tables.norm(f"{POOL}.ln_q", "pool/LayerNorm_0"),
        *tables.norm("visual.ln_post", "pool/LayerNorm_1"),
        Rule("visual.proj", ("pool/head/kernel",), SAME),
    ]


def _decoder_rules(heads: int) -> list[Rule]:
    ours = "decoder/Decoder_0/encoderblock_{i}"
    cross = f"{DECODER}.cross_attn.{{i}}"
    return [
        *tables.block(f"{DECODER}.resblocks.{{i}}", f"{ours}/Block_0", heads, tables.CLIP),
        *tables.block(cross, ours, heads, tables.CLIP),
        *tables.norm(f"{cross}.ln_1_kv", f"{ours}/LayerNorm_context"),
        *tables.norm(f"{DECODER}.ln_final", "decoder/Decoder_0/encoder_norm"),
        Rule(f"{DECODER}.text_projection", ("decoder/head/kernel",), SAME),
    ]


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    about = open_clip.configs(sections, found, form | {"text_prefix": "text."})[open_clip.CONFIG]
    model, decoder = about["model_cfg"], sections.decoder
    model["vision_cfg"] |= {
        "attentional_pool": True, "attn_pooler_queries": decoder.queries,
        "attn_pooler_heads": decoder.pool_heads, "output_tokens": True,
    }  # fmt: skip
    text = model["text_cfg"]
    del text["no_causal_mask"], text["pool_type"]
    text |= {
        "embed_cls": True, "output_tokens": True, "pad_id": sections.text.pad_id,
    }  # fmt: skip
    keys = ("context_length", "vocab_size", "width", "heads", "mlp_ratio")
    model["multimodal_cfg"] = {k: text[k] for k in keys} | {"layers": decoder.depth}
    return {open_clip.CONFIG: about}


LAYOUT = Layout(
    "L08", "open-clip-coca", "open_clip CoCa", fits, describe, rules, configs=configs,
    carried=("(text\\.)?attn_mask",), json=(open_clip.CONFIG,), file="open_clip_model.safetensors",
)  # fmt: skip
