"""The .npz of google-research/vision_transformer: ViT (Dosovitskiy 2021), AugReg (Steiner 2022).

Names are those that Linen gave when it numbered all modules of a block together; of older files,
`opt/target/` stands before them. All were made with flax's gelu, the tanh form, and its epsilon.
"""

from big_vit_lite.models.sizes import Size
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.preprocessing import HALF, Preprocessing
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections, count, image_section, square

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
    return prefix_of(source, name) is not None and prefix_of(source, "conv_root/kernel") is None


def describe(source: Source, known: Known) -> Description:
    prefix = prefix_of(source, "embedding/kernel")
    size, patch = sizes_of(source, prefix, BLOCK, "MultiHeadDotProductAttention_1", "MlpBlock_3")
    rows = source.shapes[f"{prefix}Transformer/posembed_input/pos_embedding"][1]
    token = f"{prefix}cls" in source.arrays
    grid = known.get("grid", None) or square(rows - token, source.path)
    side = tuple(n * step for n, step in zip(grid, patch, strict=True))
    section = image_section(
        size,
        patch,
        side,
        activation="tanh",
        norm_eps=1e-6,
        pool="cls" if token else "gap",
        position_grid=grid,
        position_resample="align_corners",
        classes=source.shapes.get(f"{prefix}head/kernel", (0, None))[1],
        pre_logits=source.shapes.get(f"{prefix}pre_logits/kernel", (0, False))[1],
    )
    square_side = side[0] if side[0] == side[1] else side
    found = Preprocessing(f"decode|resize({square_side}, antialias=False)", *HALF)
    return Description(Sections(section), found, {"prefix": prefix})


def rules(sections: Sections, form: Form) -> list[Rule]:
    p = form.get("prefix", "")
    table = "Transformer/posembed_input/pos_embedding"
    return [
        Rule(f"{p}{table}", ("pos_embedding",)),
        *(Rule(f"{p}{old}/{{rest}}", (f"{new}/{{rest}}",)) for old, new in NEW.items()),
        Rule(f"{p}cls", ("cls",)),
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
