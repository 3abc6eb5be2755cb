"""timm's Vision Transformers: ViT, DeiT with distillation token, DeiT III, DINOv2, SigLIP's and
CLIP's image towers, and hybrids (timm_hybrids.py).

Sizes follow from shapes; heads, the form of GELU and epsilon from the architecture's name, which
config.json has, and from its model_args.
"""

import functools
from collections.abc import Sequence
from typing import Any

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import Size, maps_stride
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import timm_hybrids as hybrids
from big_vit_lite.weights.layouts.timm_names import architecture_facts
from big_vit_lite.weights.preprocessing import Preprocessing, from_timm, understood
from big_vit_lite.weights.processors import to_timm
from big_vit_lite.weights.rules import SAME, Rule
from big_vit_lite.weights.sections import (
    Known,
    Sections,
    count,
    hybrid_section,
    image_section,
    square,
)
from big_vit_lite.weights.sizes import image_sizes, stem_sizes

QUERY = "blocks.0.attn.qkv.weight"
NOT_HERE = {
    "blocks.0.attn.q_norm.weight": "a norm of queries and keys",
    "blocks.0.attn.norm.weight": "a norm inside attention",
    "patch_embed.backbone.conv1.0.weight": "a ResNet with batch norms before its blocks",
    "patch_embed.backbone.0.conv.weight": "convolutions with batch norms before its blocks",
    "blocks.0.attn.rel_pos.mlp.fc1.weight": "relative positions",
    "attn_pool.latent_compress.weight": "a pool that compresses",
}
"""What some of timm's ViTs have and the models here have not."""


def fits(distilled: bool):
    def fits(source: Source) -> bool:
        ours = QUERY in source.arrays and "mask_token" not in source.arrays
        own = not any(name in source.arrays for name in ("decoder_embed.weight", "register_tokens"))
        said = "architecture" in source.configs.get("config.json", {})
        said = said or source.path.suffix == ".safetensors"
        return ours and own and said and ("dist_token" in source.arrays) == distilled

    return fits


def describe(source: Source, known: Known) -> Description:
    about = source.config("config.json")
    args = dict(about.get("model_args") or {})
    found = about.get("pretrained_cfg") or about
    side = args.get("img_size") or (found.get("input_size") or (None,))[-1]
    pool = about.get("global_pool") or args.get("global_pool")
    section, form = trunk_section(source, known, "", about["architecture"], args, pool, side)
    classes = source.shapes.get("head.weight", (None,))[0]
    section = section.model_copy(update={"classes": classes})
    said = understood(lambda: from_timm(found), found, source.path, "config.json")
    form |= {"architecture": about["architecture"], "pretrained_cfg": about.get("pretrained_cfg")}
    return Description(Sections(section), said, form)


def trunk_section(
    source: Source,
    known: Known,
    p: str,
    architecture: str,
    args: dict[str, Any],
    pool: str | None,
    side: Any,
) -> tuple[config.Model, Form]:
    """The section of a timm ViT whose names begin with `p`, and what its file's form is.

    Args:
        args: of timm's create_model, as far as they are known.
        pool: token, avg, map or "" where the file does not show it; None: as its arrays suggest.
        side: of the images; None: as the position table has it.
    """
    arrays = {k.removeprefix(p): x for k, x in source.shapes.items() if k.startswith(p)}
    for name, meaning in NOT_HERE.items():
        if name in arrays:
            raise InputError(f"{source.path} has {meaning}, which the models here have not.")
    facts = architecture_facts(architecture, source.path) | args
    width, depth = arrays["blocks.0.norm1.weight"][0], count(arrays, "blocks.{i}.norm1.weight")
    hidden, inputs = arrays["blocks.0.mlp.fc1.weight"][0], arrays["blocks.0.mlp.fc2.weight"][1]
    gated = hidden == 2 * inputs
    heads = known.get("heads", facts.get("num_heads") or max(1, width // facts["per_head"]))
    _, _, *patch = arrays["patch_embed.proj.weight"]
    registers = arrays.get("reg_token", (1, 0))[1]
    token, distilled = "cls_token" in arrays, "dist_token" in arrays
    rows = arrays["pos_embed"][1] if "pos_embed" in arrays else 0
    stem = hybrids.stem_of(arrays)
    step = maps_stride(stem and stem["stages"])
    pixels = [n * step for n in patch]
    grid, held = _grid(rows, token + distilled, facts, pixels, side, source.path)
    form: Form = {"prefix": p} if p else {}
    kinds = {"token": "cls", "avg": "gap", "map": "map", "": "none"}
    pool = kinds[pool if pool is not None else _pool(arrays)]
    if pool == "map" and "attn_pool.q.weight" not in arrays:
        raise InputError(f"{source.path} is to pool by attention and has no attn_pool.")
    side = side or tuple(n * step for n, step in zip(grid, pixels, strict=True))
    size = Size(width, depth, inputs, heads)
    make = functools.partial(image_section, size, patch, side)
    if stem:
        make = functools.partial(hybrid_section, size, patch, grid=grid, **stem)
    section = make(
        channels=hybrids.root(arrays)[1] if stem else arrays["patch_embed.proj.weight"][1],
        activation="swiglu" if gated else facts["activation"],
        norm_eps=facts["norm_eps"],
        pool=pool,
        class_token=token,
        distillation=distilled,
        class_position=held,
        registers=registers,
        patch_bias="patch_embed.proj.bias" in arrays,
        qkv_bias="blocks.0.attn.qkv.bias" in arrays,
        pre_norm="norm_pre.weight" in arrays,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in arrays else None,
        position_grid=grid,
        position_resample="cubic",
        pool_norm=pool == "gap" and "fc_norm.weight" in arrays,
    )
    return section, form


def _pool(arrays: dict[str, Any]) -> str:
    if "attn_pool.q.weight" in arrays:
        return "map"
    return "token" if "cls_token" in arrays else "avg"


def _grid(rows: int, tokens: int, facts, patch, side, where) -> tuple[tuple[int, int], bool]:
    """The table's grid, and whether its first rows are for the class tokens."""
    sides = (side, side) if isinstance(side, int) else side
    if sides is not None:
        grid = tuple(n // step for n, step in zip(sides, patch, strict=True))
        for held in (True, False):
            if rows == grid[0] * grid[1] + (tokens if held else 0):
                return grid, held
    held = bool(tokens) and not facts.get("no_embed_class", False)
    return square(rows - (tokens if held else 0), where), held


def rules(sections: Sections, form: Form) -> list[Rule]:
    found = trunk_rules(sections.model, form.get("prefix", ""), "")
    return [*found, *tables.linear("head", "head"), *tables.linear("head_dist", "head_dist")]


def trunk_rules(section: config.Model, p: str, img: str) -> list[Rule]:
    """The table of a timm ViT without its head."""
    heads = image_sizes(section)[0].heads
    gated = section.activation == "swiglu"
    return [
        Rule(f"{p}cls_token", (f"{img}cls",)),
        Rule(f"{p}dist_token", (f"{img}dist",)),
        Rule(f"{p}reg_token", (f"{img}registers",)),
        Rule(f"{p}pos_embed", (f"{img}pos_embedding",)),
        *hybrids.rules(f"{p}patch_embed.backbone", f"{img}stem", stem_sizes(section)),
        *tables.convolution(f"{p}patch_embed.proj", f"{img}embedding"),
        *tables.norm(f"{p}norm_pre", f"{img}pre_norm"),
        *tables.stack(
            f"{p}blocks", f"{img}Transformer", heads, GATED if gated else tables.TIMM,
            f"{p}norm", gated,
        ),
        *tables.norm(f"{p}fc_norm", f"{img}pool_norm"),
        *attention_pool(f"{p}attn_pool", f"{img}MAPHead_0", heads),
    ]  # fmt: skip


GATED = tables.gated_as(tables.TIMM, ("mlp.fc1", "mlp.fc2"))
"""timm calls both maps of a gated MLP into the hidden features fc1."""


def attention_pool(theirs: str, ours: str, heads: int) -> list[Rule]:
    """timm's AttentionPoolLatent: the key's and value's maps are one."""
    at = f"{ours}/{tables.ATTENTION}"
    return [
        Rule(f"{theirs}.latent", (f"{ours}/probe",), SAME),
        *tables.projections(f"{theirs}.q.", at, ("query",), heads),
        *tables.projections(f"{theirs}.kv.", at, ("key", "value"), heads),
        *tables.merge(f"{theirs}.proj", f"{at}/out", heads),
        *tables.norm(f"{theirs}.norm", f"{ours}/LayerNorm_0"),
        *tables.linear(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0"),
        *tables.linear(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1"),
    ]


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    model = sections.model
    size, patch = image_sizes(model)
    pools = {"cls": "token", "gap": "avg", "map": "map", "none": ""}
    if model.pool not in pools or not model.distillation_head:
        raise InputError(
            "timm has no ViT with a head of the class token and the mean patch together, and none "
            "with a distillation token and one head: choose another layout."
        )
    side = model.image_size
    architecture = form.get("architecture") or _architecture(model)
    token = model.has_class_token
    if model.registers and token and model.class_position:
        raise InputError(
            "timm's models with registers have no position for the class token: add the first row "
            "of pos_embedding to cls, drop it, and set model.class_position=False."
        )
    args = {
        "embed_dim": size.width, "depth": size.depth, "num_heads": size.heads,
        "img_size": side if isinstance(side, int) else list(side),
        "patch_size": patch[0] if patch[0] == patch[1] else list(patch),
        "mlp_ratio": size.mlp_dim / size.width * (2 if model.activation == "swiglu" else 1),
        "in_chans": model.channels, "qkv_bias": model.qkv_bias, "reg_tokens": model.registers,
        "class_token": token, "no_embed_class": not (model.class_position and token),
        "pre_norm": model.pre_norm, "init_values": model.layer_scale,
        "global_pool": pools[model.pool],
        "num_classes": model.classes or 0,
    }  # fmt: skip
    pretrained = to_timm(model, found, form.get("pretrained_cfg"))
    given = tuple(pretrained.get("input_size", ())[-2:])
    if given and given != (side if isinstance(side, tuple) else (side, side)):
        args["dynamic_img_size"] = True  # the table is of other images than those it is given
    about = {
        "architecture": architecture,
        "num_classes": model.classes or 0,
        "num_features": size.width,
        "global_pool": pools[model.pool],
        "model_args": args,
        "pretrained_cfg": pretrained,
    }
    return {"config.json": about}


def _architecture(model: config.Model) -> str:
    """A name of timm's whose form of GELU and epsilon are the model's; sizes are in model_args."""
    if model.distillation:
        return "deit_base_distilled_patch16_224"
    if stem := stem_sizes(model):
        return hybrids.architecture(*stem)
    names = {
        ("erf", 1e-6): "vit_base_patch16_224",
        ("erf", 1e-5): "vit_base_patch16_clip_224",
        ("quick", 1e-5): "vit_base_patch16_clip_quickgelu_224",
        ("tanh", 1e-6): "vit_so400m_patch16_siglip_256",
        ("swiglu", 1e-6): "vit_giant_patch14_dinov2",
    }
    return names.get((model.activation, model.norm_eps), "vit_base_patch16_224")


def names_of(about: dict[str, Any]) -> list[Any]:
    """The classes' names in a config.json, as timm has them there or in its pretrained_cfg."""
    found = about.get("label_names") or (about.get("pretrained_cfg") or {}).get("label_names") or []
    return [found.get(str(i)) for i in range(len(found))] if isinstance(found, dict) else found


def labels(names: Sequence[str]) -> dict[str, Any]:
    return {"label_names": list(names)}


VIT = Layout(
    "L15", "timm", "timm ViT, hybrids, DeiT III, DINOv2, towers of CLIP and SigLIP", fits(False),
    describe, rules, configs=configs, json=("config.json",), names=(names_of, labels),
)  # fmt: skip
DEIT = Layout(
    "L16", "timm-deit", "timm DeiT with distillation token", fits(True), describe, rules,
    configs=configs, json=("config.json",), names=(names_of, labels),
)  # fmt: skip
