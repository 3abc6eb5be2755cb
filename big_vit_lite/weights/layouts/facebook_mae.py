"""MAE's own files of pre-training with the decoder, encoder and decoder under timm's names.

The loss is not in the file: published ones of either kind have the same names, and `known` says
which it is. Without it, pixels are in their own units (norm_pix_loss), as the paper's are.
"""

from big_vit_lite import config
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import facebook
from big_vit_lite.weights.layouts.facebook import IMAGENET, shortest
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections, count
from big_vit_lite.weights.sizes import image_sizes

EMBED = "decoder_embed.weight"
HEADS = {512: 16}
"""By width: decoders of all published sizes."""


def fits(source: Source) -> bool:
    return facebook.could_be_mae(source) and EMBED in source.arrays


def describe(source: Source, known: Known) -> Description:
    section = facebook.image(
        source, known, "", "blocks.{i}", position_resample="cubic_torch", pool="cls"
    )
    width = source.shapes[EMBED][0]
    heads = known.get("decoder_heads", HEADS.get(width))
    if heads is None:
        meaning = f"how many heads a decoder of width {width} has"
        heads = known.need("decoder_heads", meaning)
    reconstruction = config.Reconstruction(
        width=width,
        depth=count(source.shapes, "decoder_blocks.{i}.norm1.weight"),
        heads=heads,
        mlp_dim=source.shapes["decoder_blocks.0.mlp.fc1.weight"][0],
        positions="learned",
        mask_ratio=known.get("mask_ratio", 0.75),
        normalize=known.get("normalize", True),
    )
    found = shortest(224, IMAGENET, 0.875)
    return Description(Sections(section, reconstruction=reconstruction), found)


def rules(sections: Sections, form: Form) -> list[Rule]:
    heads = image_sizes(sections.model)[0].heads
    return [
        Rule("cls_token", ("encoder/cls",)),
        Rule("pos_embed", ("encoder/pos_embedding",)),
        *tables.convolution("patch_embed.proj", "encoder/embedding"),
        *tables.stack("blocks", "encoder/Transformer", heads, tables.TIMM, "norm"),
        Rule("mask_token", ("decoder/mask_token",)),
        Rule("decoder_pos_embed", ("decoder/pos_embedding",)),
        *tables.linear("decoder_embed", "decoder/embed"),
        *tables.stack(
            "decoder_blocks", "decoder/Transformer", sections.reconstruction.heads, tables.TIMM,
            "decoder_norm",
        ),
        *tables.linear("decoder_pred", "decoder/head"),
    ]  # fmt: skip


LAYOUT = Layout(
    "L22", "mae-pretraining", "MAE files of pre-training, with the decoder", fits, describe, rules,
    file=None,
)  # fmt: skip
