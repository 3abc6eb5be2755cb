"""OpenAI's CLIP (Radford 2021): ViTs and ResNets, as TorchScript archives or state dicts.

Everything follows from shapes, and from what all of these models share: quick GELU, epsilon 1e-5,
heads of 64 features, images of the mean and standard deviation named CLIP's.
"""

from big_vit_lite import config
from big_vit_lite.models.sizes import Size
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.preprocessing import CLIP, Preprocessing, clip_text, shortest
from big_vit_lite.weights.rules import NUMBER, SAME, Rule, leading
from big_vit_lite.weights.sections import (
    Known,
    Sections,
    count,
    image_section,
    resnet_section,
    square,
    text_section,
)
from big_vit_lite.weights.sizes import image_sizes, resnet_heads, text_size

PER_HEAD = 64
MARKS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that the archives hold beside the weights, and that say that they are OpenAI's."""
EPS = 1e-5


def fits(resnet: bool):
    def fits(source: Source) -> bool:
        name = "visual.layer1.0.conv1.weight" if resnet else "visual.class_embedding"
        return name in source.arrays and all(mark in source.arrays for mark in MARKS)

    return fits


def describe(source: Source, known: Known) -> Description:
    shapes = source.shapes
    sections = Sections(
        image_of(source, known, "quick", PER_HEAD),
        text_of(source, known, "", "quick"),
        config.Joint(features=shapes["text_projection"][1], max_logit_scale=100.0),
    )
    about = shortest(sections.model.image_size, CLIP)
    text = clip_text(sections.text.length) if sections.text.vocabulary == 49408 else None
    return Description(sections, Preprocessing(about.transform, *CLIP, text))


def image_of(source: Source, known: Known, activation: str, per_head: int) -> config.Model:
    """The image tower, from shapes: a ViT or a ResNet."""
    shapes = source.shapes
    if "visual.layer1.0.conv1.weight" in shapes:
        grid = square(shapes["visual.attnpool.positional_embedding"][0] - 1, source.path)
        return resnet_section(
            stages=tuple(
                count(shapes, f"visual.layer{n}.{{i}}.conv1.weight") for n in (1, 2, 3, 4)
            ),
            width=shapes["visual.layer1.0.conv1.weight"][0],
            heads=known.get("image_heads", shapes["visual.attnpool.q_proj.weight"][0] // per_head),
            image_size=32 * grid[0],
        )
    width, _, *patch = shapes["visual.conv1.weight"]
    grid = square(shapes["visual.positional_embedding"][0] - 1, source.path)
    block = "visual.transformer.resblocks"
    size = Size(
        width,
        count(shapes, f"{block}.{{i}}.ln_1.weight"),
        shapes[f"{block}.0.mlp.c_fc.weight"][0],
        known.get("image_heads", width // per_head),
    )
    scaled = f"{block}.0.ls_1.gamma" in shapes
    return image_section(
        size,
        patch,
        tuple(n * step for n, step in zip(grid, patch, strict=True)),
        activation=activation,
        norm_eps=EPS,
        patch_bias=False,
        pre_norm="visual.ln_pre.weight" in shapes,
        layer_scale=1.0 if scaled else None,
        position_grid=grid,
        position_resample="cubic",
        init="clip",
    )


def text_of(source: Source, known: Known, prefix: str, activation: str, **fields) -> config.Text:
    """The text tower, from shapes; `fields` are more of its section."""
    shapes, block = source.shapes, f"{prefix}transformer.resblocks"
    width = shapes[f"{prefix}ln_final.weight"][0]
    size = Size(
        width,
        count(shapes, f"{block}.{{i}}.ln_1.weight"),
        shapes[f"{block}.0.mlp.c_fc.weight"][0],
        known.get("text_heads", width // PER_HEAD)
        or known.need("text_heads", "how many heads its text tower has"),
    )
    length = shapes[f"{prefix}positional_embedding"][0]
    defaults = {"norm_eps": EPS, "activation": activation, "init": "clip", "length": length}
    return text_section(
        size, vocabulary=shapes[f"{prefix}token_embedding.weight"][0], **(defaults | fields)
    )


def rules(sections: Sections, form: Form) -> list[Rule]:
    return [
        *image_rules(sections.model, "img/"),
        *text_rules(sections.text, form.get("text_prefix", ""), sections.joint.projection_bias),
        Rule("logit_scale", ("t",), NUMBER),
        Rule("logit_bias", ("b",), NUMBER),
    ]


def image_rules(section: config.Model, img: str, last: str = "visual.ln_post") -> list[Rule]:
    if section.variant.startswith("RN"):
        return resnet_rules("visual", img, resnet_heads(section))
    at = "visual"
    return [
        Rule(f"{at}.class_embedding", (f"{img}cls",), leading(2)),
        Rule(f"{at}.positional_embedding", (f"{img}pos_embedding",), leading(1)),
        *tables.convolution(f"{at}.conv1", f"{img}embedding"),
        *tables.norm(f"{at}.ln_pre", f"{img}pre_norm"),
        *tables.stack(
            f"{at}.transformer.resblocks", f"{img}Transformer", image_sizes(section)[0].heads,
            tables.CLIP, last,
        ),
        Rule(f"{at}.proj", (f"{img}head/kernel",), SAME),
    ]  # fmt: skip


def text_rules(section: config.Text, p: str, bias: bool) -> list[Rule]:
    """`bias`: of the projection, which makes it a linear map; else it is a matrix (in, out)."""
    return [
        Rule(f"{p}token_embedding.weight", ("txt/Embed_0/embedding",)),
        Rule(f"{p}positional_embedding", ("txt/pos_embedding",), leading(1)),
        *tables.stack(
            f"{p}transformer.resblocks", "txt/Encoder_0", text_size(section).heads, tables.CLIP,
            f"{p}ln_final",
        ),
        *(
            tables.linear(f"{p}text_projection", "txt/head") if bias
            else [Rule(f"{p}text_projection", ("txt/head/kernel",), SAME)]
        ),
    ]  # fmt: skip


def resnet_rules(at: str, img: str, heads: int) -> list[Rule]:
    """OpenAI's ModifiedResNet, also open_clip's, named `at`."""
    dot = f"{at}." if at else ""
    found = [
        Rule(f"{dot}attnpool.positional_embedding", (f"{img}pos_embedding",), leading(1)),
        *tables.attention(
            f"{dot}attnpool", f"{img}pool", heads, ("q_proj", "k_proj", "v_proj"), "c_proj"
        ),
    ]
    for k in (1, 2, 3):
        found += tables.convolution(f"{dot}conv{k}", f"{img}conv_{k - 1}")
        found += tables.batch_norm(f"{dot}bn{k}", f"{img}norm_{k - 1}")
    for n in (1, 2, 3, 4):
        theirs, ours = f"{dot}layer{n}.{{i}}", f"{img}stage{n - 1}_block{{i:02}}"
        for k in (1, 2, 3):
            found += tables.convolution(f"{theirs}.conv{k}", f"{ours}/conv_{k - 1}")
            found += tables.batch_norm(f"{theirs}.bn{k}", f"{ours}/norm_{k - 1}")
        found += tables.convolution(f"{theirs}.downsample.0", f"{ours}/conv_shortcut")
        found += tables.batch_norm(f"{theirs}.downsample.1", f"{ours}/norm_shortcut")
    return found


def batch_counts(sections: Sections, table: list[Rule]):
    """torch's batch norms count the batches of training; nothing reads it."""
    import numpy as np

    from big_vit_lite.weights.rules import expected

    names = expected(table, sections.leaves())
    ends = [name.removesuffix("running_mean") for name in names if name.endswith("running_mean")]
    return {f"{name}num_batches_tracked": np.array(0, np.int64) for name in ends}


CARRIED = (*MARKS, r".*\.num_batches_tracked", "attn_mask")


def _layout(number: str, resnet: bool, title: str) -> Layout:
    name = "openai-resnet" if resnet else "openai-clip"
    return Layout(
        number, name, title, fits(resnet), describe, rules, carried=CARRIED, file=None
    )  # fmt: skip


LAYOUT = _layout("L04", False, "OpenAI CLIP, ViT")
RESNET = _layout("L05", True, "OpenAI CLIP, ResNet")
