"""The .pth files of DINO, DINOv2, DeiT and MAE, whose names are timm's, but for a few.

All have the exact GELU and epsilon 1e-6; heads are those of the published sizes. All were evaluated
with ImageNet's mean and standard deviation, at 0.875 of the shorter side. But the arrays of DeiT,
of DINO's bare backbones and of MAE's classifiers have no name that a plain ViT of timm, of whatever
preprocessing, has not, too: of these, preprocessing is known by the file's published name only.
"""

import math
import re

import numpy as np

from big_vit_lite.models.layers.positions import sincos2d_mae
from big_vit_lite.models.sizes import Size
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.files.stored import float32
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts.timm import QUERY
from big_vit_lite.weights.preprocessing import IMAGENET, shortest
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections, image_section, square
from big_vit_lite.weights.sizes import image_sizes

CHUNKED = "blocks.0.0.attn.qkv.weight"
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}
"""By width: DINO Ti, S, B; DINOv2 S, B, L, g (1536); MAE B, L, H (1280)."""
PUBLISHED = {
    "deit": r"deit_(tiny|small|base)_(distilled_)?patch16_(224|384)-[0-9a-f]{8}",
    "dino": r"dino_(deitsmall|vitbase)(8|16)(_300ep)?_pretrain",
    "mae": r"mae_finetuned_vit_(base|large|huge)",
}
"""Names of Facebook's files, without suffix."""
DINOV2_SIDE, DINOV2_OFFSET = 518, 0.1


def _prefix(source: Source) -> str:
    """Before names of DINO's full checkpoints, whose teacher has a head beside its backbone."""
    return "backbone." if f"backbone.{QUERY}" in source.arrays else ""


def _plain(source: Source) -> bool:
    """These files are torch's; safetensors of such names are timm's."""
    return f"{_prefix(source)}{QUERY}" in source.arrays and source.path.suffix != ".safetensors"


def fits_dinov2(source: Source) -> bool:
    own = "mask_token" in source.arrays and "decoder_embed.weight" not in source.arrays
    return own and (QUERY in source.arrays or CHUNKED in source.arrays)


def could_be_mae(source: Source) -> bool:
    odd = ("dist_token", "blocks.0.ls1.gamma", "register_tokens")
    return _plain(source) and not any(name in source.arrays for name in odd)


def fits_mae(source: Source) -> bool:
    if not could_be_mae(source) or "decoder_embed.weight" in source.arrays:
        return False
    return "fc_norm.weight" in source.arrays or _has_sinusoids(source)


def _has_sinusoids(source: Source) -> bool:
    """MAE's encoder has DINO's names, and a position table that never was trained."""
    stored = source.arrays.get("pos_embed")
    if stored is None or stored.shape[-1] % 4:
        return False
    side = math.isqrt(stored.shape[1] - 1)
    table = sincos2d_mae((side, side), stored.shape[-1])
    found = float32(stored)[0, 1:]
    return found.shape == table.shape and bool(np.allclose(found, table, atol=1e-4))


def _is_published(source: Source, house: str) -> bool:
    """Whether a file has the name under which its house has it."""
    return re.fullmatch(PUBLISHED[house], source.path.stem) is not None


def fits_deit(source: Source) -> bool:
    return _plain(source) and "head.weight" in source.arrays and _has_no_oddity(source)


def fits_dino(source: Source) -> bool:
    bare = "head.weight" not in source.arrays and "dist_token" not in source.arrays
    return _plain(source) and bare and _has_no_oddity(source)


def _has_no_oddity(source: Source) -> bool:
    odd = (
        "reg_token",
        "blocks.0.ls1.gamma",
        "attn_pool.q.weight",
        "norm_pre.weight",
        "fc_norm.weight",
        "decoder_embed.weight",
    )
    return not any(name in source.arrays for name in odd)


def image(source: Source, known: Known, p: str, block: str, tokens: int = 1, **fields):
    shapes = source.shapes
    gated = f"{p}{block.replace('{i}', '0')}.mlp.w12.weight" in shapes
    first = "mlp.w3.weight" if gated else "mlp.fc2.weight"
    width, hidden = shapes[f"{p}{block.replace('{i}', '0')}.{first}"]
    heads = known.get("heads", HEADS.get(width))
    if heads is None:
        heads = known.need("heads", f"how many heads a model of width {width} has")
    _, _, *patch = shapes[f"{p}patch_embed.proj.weight"]
    grid = known.get("grid", None) or square(shapes[f"{p}pos_embed"][1] - tokens, source.path)
    depth = len({name for name in shapes if re.fullmatch(
        re.escape(p) + r"blocks\.([0-9]+\.)+norm1\.weight", name)})  # fmt: skip
    return image_section(
        Size(width, depth, hidden, heads),
        patch,
        tuple(n * step for n, step in zip(grid, patch, strict=True)),
        activation="swiglu" if gated else "erf",
        norm_eps=1e-6,
        qkv_bias=f"{p}{block.replace('{i}', '0')}.attn.qkv.bias" in shapes,
        position_grid=grid,
        **fields,
    )


def describe_dinov2(source: Source, known: Known) -> Description:
    chunked = CHUNKED in source.arrays
    registers = source.shapes.get("register_tokens", (1, 0))[1]
    section = image(
        source,
        known,
        "",
        "blocks.0.{i}" if chunked else "blocks.{i}",
        layer_scale=1.0,
        registers=registers,
        position_resample="cubic" if registers else "cubic_torch",
        position_offset=0.0 if registers else DINOV2_OFFSET,
    )
    # The table is of 518 pixels, and images of 224 are what it was evaluated with.
    form = {"chunks": _chunks(source)} if chunked else {}
    return Description(Sections(section), shortest(224, IMAGENET, 0.875), form)


def _chunks(source: Source) -> list[int]:
    """Number of the first block in each chunk: blocks keep their own numbers inside chunks."""
    names = (re.match(r"blocks\.([0-9]+)\.([0-9]+)\.norm1\.weight", x) for x in source.arrays)
    found: dict[int, int] = {}
    for match in filter(None, names):
        chunk, block = int(match[1]), int(match[2])
        found[chunk] = min(block, found.get(chunk, block))
    return [found[chunk] for chunk in sorted(found)]


def describe_dino(source: Source, known: Known) -> Description:
    p = _prefix(source)
    section = image(
        source,
        known,
        p,
        "blocks.{i}",
        position_resample="cubic_torch",
        position_offset=DINOV2_OFFSET,
    )
    # The teacher's names are of DINO's own checkpoints, whose training has these pixels fixed.
    own = bool(p) or _is_published(source, "dino")
    found = shortest(224, IMAGENET, 0.875) if own else None
    return Description(Sections(section), found, {"prefix": p})


def describe_deit(source: Source, known: Known) -> Description:
    distilled = "dist_token" in source.arrays
    section = image(
        source,
        known,
        "",
        "blocks.{i}",
        tokens=1 + distilled,
        classes=source.shapes["head.weight"][0],
        distillation=distilled,
        position_resample="cubic_torch",
    )
    if not _is_published(source, "deit"):
        return Description(Sections(section), None)
    return Description(Sections(section), shortest(section.image_size, IMAGENET, 0.875))


def describe_mae(source: Source, known: Known) -> Description:
    fine_tuned = "fc_norm.weight" in source.arrays
    classes = source.shapes.get("head.weight", (None,))[0]
    section = image(
        source, known, "", "blocks.{i}", classes=classes, position_resample="cubic_torch",
        pool="gap" if fine_tuned else "cls", class_token=True, pool_norm=fine_tuned,
    )  # fmt: skip
    own = _has_sinusoids(source) or _is_published(source, "mae")
    return Description(Sections(section), shortest(224, IMAGENET, 0.875) if own else None)


def rules(sections: Sections, form: Form) -> list[Rule]:
    model, p = sections.model, form.get("prefix", "")
    size, _ = image_sizes(model)
    gated = model.activation == "swiglu"
    blocks: list[Rule] = []
    if "chunks" in form:
        bounds = [*form["chunks"], size.depth]
        for chunk, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            for i in range(start, end):
                blocks += tables.block(
                    f"blocks.{chunk}.{i}", f"Transformer/encoderblock_{i}", size.heads,
                    tables.TIMM, gated,
                )  # fmt: skip
    else:
        blocks = tables.block(
            f"{p}blocks.{{i}}", "Transformer/encoderblock_{i}", size.heads, tables.TIMM, gated
        )
    return [
        Rule(f"{p}cls_token", ("cls",)),
        Rule("dist_token", ("dist",)),
        Rule(f"{p}register_tokens", ("registers",)),
        Rule(f"{p}pos_embed", ("pos_embedding",)),
        *tables.convolution(f"{p}patch_embed.proj", "embedding"),
        *blocks,
        *tables.norm(f"{p}norm", "Transformer/encoder_norm"),
        *tables.norm(f"{p}fc_norm", "pool_norm"),
        *tables.linear(f"{p}head", "head"),
        *tables.linear("head_dist", "head_dist"),
    ]


DINOV2 = Layout(
    "L17",
    "dinov2",
    "DINOv2 hub files, with and without registers",
    fits_dinov2,
    describe_dinov2,
    rules,
    carried=("mask_token",),
    file=None,
)
MAE = Layout(
    "L18",
    "mae",
    "MAE files: encoders, and fine-tuned classifiers",
    fits_mae,
    describe_mae,
    rules,
    carried=(r"decoder_.*", "mask_token"),
    could=could_be_mae,
    file=None,
)
DINO = Layout(
    "L19",
    "dino",
    "DINO files: backbones, and teachers of full checkpoints",
    fits_dino,
    describe_dino,
    rules,
    carried=(r"head\.(mlp|last_layer)\..*",),
    file=None,
)
DEIT = Layout(
    "L20",
    "deit",
    "DeiT files, with and without distillation token",
    fits_deit,
    describe_deit,
    rules,
    file=None,
)
