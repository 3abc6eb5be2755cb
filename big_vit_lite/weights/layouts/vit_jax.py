"""The .npz of google-research/vision_transformer: ViT (Dosovitskiy 2021), AugReg (Steiner 2022).

Names are those that Linen gave when it numbered all modules of a block together; of older files,
`opt/target/` stands before them. All were made with flax's gelu, the tanh form, and its epsilon,
which is that of the group norms of hybrids, too (R50+ViT-B/16 and its like).
"""

from big_vit_lite.models.sizes import Size
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.preprocessing import HALF, Preprocessing
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import (
    Known,
    Sections,
    count,
    hybrid_section,
    image_section,
    square,
)
from big_vit_lite.weights.sizes import stem_sizes

BLOCK = "Transformer/encoderblock_{i}"
NEW = {
    f"{BLOCK}/LayerNorm_2": f"{BLOCK}/LayerNorm_1",
    f"{BLOCK}/MlpBlock_3": f"{BLOCK}/MlpBlock_0",
    f"{BLOCK}/MultiHeadDotProductAttention_1": f"{BLOCK}/MultiHeadDotProductAttention_0",
}
"""Numbers of a block's modules, there and here."""
PREFIXES = ("", "opt/target/", "params/")


def prefix_of(source: Source, name: str) -> str | None:
    return next((prefix for prefix in PREFIXES if prefix + name in source.arrays), None)


def sizes_of(
    source: Source, prefix: str, block: str, attention: str, mlp: str
) -> tuple[Size, tuple[int, int]]:
    """Size and patch of an image tower, from shapes: kernels have heads as an axis of their own."""
    at, shapes = prefix + block.replace("{i}", "0"), source.shapes
    width, heads, _ = shapes[f"{at}/{attention}/query/kernel"]
    mlp_dim = shapes[f"{at}/{mlp}/Dense_0/kernel"][1]
    depth = count(shapes, f"{prefix}{block}/LayerNorm_0/scale")
    patch = shapes.get(f"{prefix}embedding/kernel", (1, 1))[:2]
    return Size(width, depth, mlp_dim, heads), patch


def fits(source: Source) -> bool:
    name = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
    return prefix_of(source, name) is not None


def describe(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, "embedding/kernel")
    size, patch = sizes_of(source, prefix, BLOCK, "MultiHeadDotProductAttention_1", "MlpBlock_3")
    rows = source.shapes[f"{prefix}Transformer/posembed_input/pos_embedding"][1]
    token = f"{prefix}cls" in source.arrays
    grid = known.get("grid", None) or square(rows - token, source.path)
    section = _tower(
        source,
        prefix,
        size,
        patch,
        grid,
        activation="tanh",
        norm_eps=1e-6,
        pool="cls" if token else "gap",
        position_grid=grid,
        position_resample="align_corners",
        classes=source.shapes.get(f"{prefix}head/kernel", (0, None))[1],
        pre_logits=source.shapes.get(f"{prefix}pre_logits/kernel", (0, False))[1],
    )
    found = Preprocessing(f"decode|resize({section.image_size}, antialias=False)", *HALF)
    return Description(Sections(section), found, {"prefix": prefix})


def _tower(source: Source, p: str, size, patch, grid, **fields):
    """The section of a Vision Transformer, or of a hybrid where the file has a ResNet."""
    root = source.shapes.get(f"{p}conv_root/kernel")
    if root is None:
        side = [n * step for n, step in zip(grid, patch, strict=True)]
        return image_section(size, patch, side, **fields)
    units = (count(source.shapes, f"{p}block{i}/unit{{i}}/conv1/kernel") for i in range(1, 9))
    stages = tuple(n - 1 for n in units if n)  # the first is called 1
    return hybrid_section(size, patch, stages, root[-1], grid, channels=root[2], **fields)


def rules(sections: Sections, form: Form) -> list[Rule]:
    p = form.get("prefix", "")
    hybrid = stem_sizes(sections.model) is not None
    stem = ("conv_root/{rest}", "gn_root/{rest}", "block{i}/{rest}") if hybrid else ()
    table = "Transformer/posembed_input/pos_embedding"
    return [
        Rule(f"{p}{table}", ("pos_embedding",)),
        *(Rule(f"{p}{old}/{{rest}}", (f"{new}/{{rest}}",)) for old, new in NEW.items()),
        Rule(f"{p}cls", ("cls",)),
        *(Rule(f"{p}{name}", (f"stem/{name}",)) for name in stem),
        *(
            Rule(f"{p}{name}/{{rest}}", (f"{name}/{{rest}}",))
            for name in (f"{BLOCK}/LayerNorm_0", "Transformer/encoder_norm", "embedding", "head",
                         "pre_logits")
        ),
    ]  # fmt: skip


LAYOUT = Layout(
    "L01", "vit-jax", "ViT and AugReg .npz of vision_transformer", fits, describe, rules,
    file="model.npz",
)  # fmt: skip
