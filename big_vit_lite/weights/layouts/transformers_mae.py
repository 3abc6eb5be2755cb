"""transformers' ViT-MAE: ViTMAEForPreTraining with its decoder, and ViTMAEModel, the encoder alone.

Files of the hub call the decoder's blocks decoder_layers.i; transformers 5 writes them as
decoder_encoder.layer.i. Both are read, and written as they came.
"""

from typing import Any

from big_vit_lite import config
from big_vit_lite.models.mae import BY_SEQUENCE
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import transformers as hf
from big_vit_lite.weights.layouts import transformers_vit as vit
from big_vit_lite.weights.preprocessing import Preprocessing
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections
from big_vit_lite.weights.sizes import image_sizes

KIND = "vit_mae"
EMBED = "decoder.decoder_embed.weight"
BLOCKS = ("decoder_layers", "decoder_encoder.layer")
"""Names of the decoder's blocks: the hub's, and those that transformers 5 writes."""
MASK_RATIO = 0.75


def fits(source: Source) -> bool:
    prefix = vit.prefix_of(source, ("", "vit."))
    return prefix is not None and (EMBED in source.arrays or vit.kind_of(source) == KIND)


def describe(source: Source, known: Known) -> Description:
    prefix = vit.prefix_of(source, ("", "vit."))
    section, found = vit.described(source, prefix, KIND, KIND)
    about = hf.settings(hf.config_of(source, KIND), KIND)
    form: Form = {"prefix": prefix, "mask_ratio": about["mask_ratio"]}
    if EMBED not in source.arrays:
        return Description(Sections(section), found, form)
    first = "decoder.{}.0.layernorm_before.weight"
    held = [name for name in BLOCKS if first.format(name) in source.arrays]
    form["blocks"] = held[0] if held else BLOCKS[0]
    reconstruction = config.Reconstruction(
        width=about["decoder_hidden_size"],
        depth=about["decoder_num_hidden_layers"],
        heads=about["decoder_num_attention_heads"],
        mlp_dim=about["decoder_intermediate_size"],
        positions="learned",
        position_resample=BY_SEQUENCE,
        mask_ratio=about["mask_ratio"],
        normalize=about["norm_pix_loss"],
    )
    return Description(Sections(section, reconstruction=reconstruction), found, form)


def rules(sections: Sections, form: Form) -> list[Rule]:
    section = sections.reconstruction
    p = form.get("prefix", "vit." if section else "")
    heads = image_sizes(sections.model)[0].heads
    if section is None:
        return vit.encoder_rules(p, "", heads)
    blocks = f"decoder.{form.get('blocks', BLOCKS[0])}"
    return [
        *vit.encoder_rules(p, "encoder/", heads),
        Rule("decoder.mask_token", ("decoder/mask_token",)),
        Rule("decoder.decoder_pos_embed", ("decoder/pos_embedding",)),
        *tables.linear("decoder.decoder_embed", "decoder/embed"),
        *tables.stack(
            blocks, "decoder/Transformer", section.heads, tables.TRANSFORMERS_VIT,
            "decoder.decoder_norm",
        ),
        *tables.linear("decoder.decoder_pred", "decoder/head"),
    ]  # fmt: skip


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    model, section = sections.model, sections.reconstruction
    about = hf.image_settings(model, *image_sizes(model)) | {
        "model_type": KIND,
        "architectures": ["ViTMAEForPreTraining" if section else "ViTMAEModel"],
        "qkv_bias": model.qkv_bias,
        "mask_ratio": section.mask_ratio if section else form.get("mask_ratio", MASK_RATIO),
    }
    if section:
        about |= {
            "decoder_hidden_size": section.width,
            "decoder_num_hidden_layers": section.depth,
            "decoder_num_attention_heads": section.heads,
            "decoder_intermediate_size": section.mlp_dim,
            "norm_pix_loss": section.normalize,
        }
    return {"config.json": about} | hf.preprocessor(found, "ViTImageProcessor", form)


LAYOUT = Layout(
    "L21", "transformers-mae", "transformers ViT-MAE, with its decoder and without", fits,
    describe, rules, configs=configs, json=hf.JSON,
)  # fmt: skip
