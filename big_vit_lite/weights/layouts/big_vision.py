"""big_vision's .npz: a ViT alone, and two towers (SigLIP, SigLIP 2, LiT). Its names are ours.

Its ViTs have flax's tanh gelu and epsilon 1e-6; positions are added before the class token comes,
so that their table has no row for it. Tables with one are read, too: models trained here have them.
"""

import math

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import Size
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts.transformers_siglip2 import flexible
from big_vit_lite.weights.layouts.vit_jax import sizes_of
from big_vit_lite.weights.preprocessing import HALF, Preprocessing, patches
from big_vit_lite.weights.rules import SAME, Rule
from big_vit_lite.weights.rules import Form as ArrayForm
from big_vit_lite.weights.sections import Known, Sections, image_section, square, text_section
from big_vit_lite.weights.sizes import image_sizes

ATTENTION, MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"
IMAGE, TEXT = "Transformer/encoderblock_{i}", "Encoder_0/encoderblock_{i}"
PREFIXES = ("", "params/")


def prefix_of(source: Source, tower: str) -> str | None:
    name = f"{tower}Transformer/encoderblock_0/{ATTENTION}/query/kernel"
    return next((prefix for prefix in PREFIXES if prefix + name in source.arrays), None)


def fits(source: Source) -> bool:
    return prefix_of(source, "") is not None


def fits_pair(source: Source) -> bool:
    return prefix_of(source, "img/") is not None and not has_grid(source)


def fits_naflex(source: Source) -> bool:
    return prefix_of(source, "img/") is not None and has_grid(source)


def has_grid(source: Source) -> bool:
    """NaFlex's position table is (rows, columns, features); all others are (1, patches, features)
    of which one patch would have no use."""
    table = source.shapes.get(f"{prefix_of(source, 'img/')}img/pos_embedding", (1,))
    return table[0] > 1


def _image(source: Source, prefix: str, known: Known, **fields) -> tuple[config.Model, Form]:
    size, patch = sizes_of(source, prefix, IMAGE, ATTENTION, MLP)
    form: Form = {}
    kernel = source.shapes[f"{prefix}embedding/kernel"]
    if len(kernel) == 2:  # SigLIP 2's are linear maps of flattened patches
        patch = square(kernel[0] // 3, source.path)
        form["flat_patches"] = True
    pool = "gap"
    if f"{prefix}MAPHead_0/probe" in source.arrays:
        pool = "map"
    elif f"{prefix}cls" in source.arrays:
        pool = "cls"
    held = f"{prefix}pos_embedding" in source.arrays
    rows = source.shapes[f"{prefix}pos_embedding"][1] if held else 0
    # N + 1 rows, and N of them are a square: both cannot be.
    first = pool == "cls" and not _is_square(rows) and _is_square(rows - 1)
    grid = known.get("grid", None) or (square(rows - first, source.path) if held else None)
    if grid is None:
        raise InputError(
            f"{source.path} has no position table (sincos2d), and does not say for which grid it "
            'was made: load it with known={"grid": (rows, columns)}.'
        )
    side = known.get("image_size", tuple(n * step for n, step in zip(grid, patch, strict=True)))
    side = (side, side) if isinstance(side, int) else tuple(side)
    section = image_section(
        size,
        patch,
        side,
        activation="tanh",
        norm_eps=1e-6,
        pool=pool,
        class_position=first,
        positions="learned" if held else "sincos2d",
        position_grid=grid if held else None,
        position_resample="align_corners",
        drop_edge=any(n % step for n, step in zip(side, patch, strict=True)),
        pre_logits=source.shapes.get(f"{prefix}pre_logits/kernel", (0, False))[1],
        **fields,
    )
    return section, form


def describe(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, "")
    classes = source.shapes.get(f"{prefix}head/kernel", (0, None))[1]
    section, form = _image(source, prefix, known, classes=classes)
    side, found = section.image_size, None
    if side == 224:
        found = Preprocessing("decode|resize_small(256)|central_crop(224)", *HALF)
    return Description(Sections(section), found, form | {"prefix": prefix})


def describe_pair(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, "img/")
    section, form = _image(source, f"{prefix}img/", known)
    sections = _with_text(section, source, prefix, known)
    found = Preprocessing(f"decode|resize({section.image_size}, antialias=False)", *HALF)
    return Description(sections, found, form | {"prefix": prefix})


def describe_naflex(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, "img/")
    at = f"{prefix}img/"
    size, _ = sizes_of(source, at, IMAGE, ATTENTION, MLP)
    grid = source.shapes[f"{at}pos_embedding"][:2]
    patch = square(source.shapes[f"{at}embedding/kernel"][0] // 3, source.path)
    # Trained with several numbers of patches, evaluated with as many as the table has, too.
    budget = known.get("max_patches", grid[0] * grid[1])
    section = image_section(
        size,
        patch,
        tuple(n * step for n, step in zip(grid, patch, strict=True)),
        activation="tanh",
        norm_eps=1e-6,
        **flexible(tuple(grid), budget),
    )
    sections = _with_text(section, source, prefix, known)
    form = {"prefix": prefix, "flat_patches": True, "grid": True}
    return Description(sections, patches(patch[0], budget, HALF), form)


def _with_text(section: config.Model, source: Source, prefix: str, known: Known) -> Sections:
    at, shapes = f"{prefix}txt/", source.shapes
    if f"{at}Encoder_0/encoderblock_0/{ATTENTION}/query/kernel" not in shapes:
        raise InputError(
            f"{source.path} has a text tower other than big_vision's own Transformer (LiT's BERT), "
            "which the models here have not."
        )
    size, _ = sizes_of(source, at, TEXT, ATTENTION, MLP)
    vocabulary, _ = shapes[f"{at}Embed_0/embedding"]
    # big_vision's towers pool "last" unless told otherwise, and no file says so.
    pool = "map" if f"{at}MAPHead_0/probe" in shapes else known.get("text_pool", "last")
    heads = {tower: shapes.get(f"{prefix}{tower}/head/kernel") for tower in ("img", "txt")}
    projections = {
        (True, True): "both", (False, True): "text", (True, False): "image", (False, False): "none",
    }[heads["img"] is not None, heads["txt"] is not None]  # fmt: skip
    bias = f"{prefix}b" in shapes
    return Sections(
        section,
        text_section(
            Size(*size),
            vocabulary=vocabulary,
            length=shapes[f"{at}pos_embedding"][1],
            activation="tanh",
            norm_eps=1e-6,
            causal=False,
            pool=pool,
        ),
        config.Joint(
            features=(heads["txt"] or heads["img"] or (0, size.width))[1],
            projections=projections,
            projection_bias=projections != "none",
            logit_scale=10.0,
            logit_bias=-10.0 if bias else None,
        ),
    )


def _is_square(n: int) -> bool:
    return n >= 0 and math.isqrt(n) ** 2 == n


def _flat(section: config.Model) -> ArrayForm:
    """(rows * columns * channels, features) to (rows, columns, channels, features)."""
    rows, columns = image_sizes(section)[1]
    return ArrayForm(
        lambda x: x.reshape(rows, columns, -1, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1])
    )


def _grid(section: config.Model) -> ArrayForm:
    """(rows, columns, features) to (1, rows * columns, features)."""
    return ArrayForm(
        lambda x: x.reshape(1, -1, x.shape[-1]),
        lambda x: x.reshape(*section.position_grid, x.shape[-1]),
    )


def rules_naflex(sections: Sections, form: Form) -> list[Rule]:
    return rules(sections, {"prefix": "params/"} | form | {"flat_patches": True, "grid": True})


def rules(sections: Sections, form: Form) -> list[Rule]:
    p = form.get("prefix", "" if sections.text is None else "params/")
    img = "" if sections.text is None else "img/"
    kernel = _flat(sections.model) if form.get("flat_patches") else SAME
    table = _grid(sections.model) if form.get("grid") else SAME
    return [
        Rule(f"{p}{img}embedding/kernel", (f"{img}embedding/kernel",), kernel),
        Rule(f"{p}{img}pos_embedding", (f"{img}pos_embedding",), table),
        Rule(f"{p}{{rest}}", ("{rest}",)),
    ]


VIT = Layout(
    "L02", "big-vision-vit", "big_vision ViT .npz", fits, describe, rules, file="model.npz"
)
PAIR = Layout(
    "L03", "big-vision-pair", "big_vision two-tower .npz (SigLIP, SigLIP 2, LiT)", fits_pair,
    describe_pair, rules, file="model.npz",
)  # fmt: skip
NAFLEX = Layout(
    "L24", "big-vision-naflex", "big_vision SigLIP 2 of variable shape (NaFlex) .npz", fits_naflex,
    describe_naflex, rules_naflex, file="model.npz",
)  # fmt: skip
