"""Lines that tables of torch layouts share: linear maps, norms, attention, whole blocks."""

import dataclasses

from big_vit_lite.weights.rules import (
    CONVOLUTION,
    LINEAR,
    SAME,
    Rule,
    bias_onto_heads,
    from_heads,
    onto_heads,
)

ATTENTION = "MultiHeadDotProductAttention_0"


def linear(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", (f"{ours}/kernel",), LINEAR),
        Rule(f"{theirs}.bias", (f"{ours}/bias",)),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", (f"{ours}/scale",)),
        Rule(f"{theirs}.bias", (f"{ours}/bias",)),
    ]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    return [
        *norm(theirs, ours),
        Rule(f"{theirs}.running_mean", (f"{ours}/mean",)),
        Rule(f"{theirs}.running_var", (f"{ours}/var",)),
    ]


def convolution(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", (f"{ours}/kernel",), CONVOLUTION),
        Rule(f"{theirs}.bias", (f"{ours}/bias",)),
    ]


def merge(theirs: str, ours: str, heads: int) -> list[Rule]:
    """The projection behind attention."""
    return [
        Rule(f"{theirs}.weight", (f"{ours}/kernel",), from_heads(heads)),
        Rule(f"{theirs}.bias", (f"{ours}/bias",)),
    ]


def projections(theirs: str, ours: str, names: tuple[str, ...], heads: int) -> list[Rule]:
    """A linear map whose rows hold those of `names`, such as query, key and value, in order."""
    return [
        Rule(f"{theirs}weight", tuple(f"{ours}/{x}/kernel" for x in names), onto_heads(heads)),
        Rule(f"{theirs}bias", tuple(f"{ours}/{x}/bias" for x in names), bias_onto_heads(heads)),
    ]


def attention(theirs: str, ours: str, heads: int, names: tuple[str, ...], out: str) -> list[Rule]:
    """Attention whose maps are called `names` and `out` below `theirs`.

    One name is that of a map to query, key and value together, and written with what stands before
    "weight" and "bias", as in "qkv." and "in_proj_"; three are those of one map each.
    """
    parts = ("query", "key", "value")
    if len(names) == 1:
        rules = projections(f"{theirs}.{names[0]}", ours, parts, heads)
    else:
        rules = []
        for name, part in zip(names, parts, strict=True):
            rules += projections(f"{theirs}.{name}.", ours, (part,), heads)
    return rules + merge(f"{theirs}.{out}", f"{ours}/out", heads)


@dataclasses.dataclass(frozen=True)
class BlockNames:
    """How a library calls the parts of a block; the norms' names and so on in their order.

    `qkv` and `out` as for `attention`, below `attention`. `gated` names a gated MLP's maps, the
    first of which holds the gate's rows and then the value's.
    """

    norms: tuple[str, str]
    attention: str
    qkv: tuple[str, ...]
    out: str
    mlp: tuple[str, str]
    scales: tuple[str, str] = ("", "")
    gated: tuple[str, str] = ("", "")


CLIP = BlockNames(
    norms=("ln_1", "ln_2"),
    attention="attn",
    qkv=("in_proj_",),
    out="out_proj",
    mlp=("mlp.c_fc", "mlp.c_proj"),
    scales=("ls_1.gamma", "ls_2.gamma"),
)
"""OpenAI's CLIP and open_clip."""
TIMM = BlockNames(
    norms=("norm1", "norm2"),
    attention="attn",
    qkv=("qkv.",),
    out="proj",
    mlp=("mlp.fc1", "mlp.fc2"),
    scales=("ls1.gamma", "ls2.gamma"),
    gated=("mlp.w12", "mlp.w3"),
)
"""timm, DINO, DINOv2's and MAE's own files."""
TRANSFORMERS_CLIP = BlockNames(
    norms=("layer_norm1", "layer_norm2"),
    attention="self_attn",
    qkv=("q_proj", "k_proj", "v_proj"),
    out="out_proj",
    mlp=("mlp.fc1", "mlp.fc2"),
)
"""transformers' CLIP and SigLIP."""
TRANSFORMERS_VIT = BlockNames(
    norms=("layernorm_before", "layernorm_after"),
    attention="attention",
    qkv=("attention.query", "attention.key", "attention.value"),
    out="output.dense",
    mlp=("intermediate.dense", "output.dense"),
)
"""transformers' ViT, DeiT and ViT-MAE, as files have them."""
TRANSFORMERS_DINO = dataclasses.replace(
    TRANSFORMERS_VIT,
    norms=("norm1", "norm2"),
    mlp=("mlp.fc1", "mlp.fc2"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    gated=("mlp.weights_in", "mlp.weights_out"),
)


def gated_as(names: BlockNames, gated: tuple[str, str]) -> BlockNames:
    """The same names, but for those of a gated MLP."""
    return dataclasses.replace(names, gated=gated)


def block(theirs: str, ours: str, heads: int, names: BlockNames, gated: bool = False) -> list[Rule]:
    """A whole Transformer block."""
    rules = attention(
        f"{theirs}.{names.attention}", f"{ours}/{ATTENTION}", heads, names.qkv, names.out
    )
    for n in (0, 1):
        rules += norm(f"{theirs}.{names.norms[n]}", f"{ours}/LayerNorm_{n}")
        if names.scales[n]:
            rules.append(Rule(f"{theirs}.{names.scales[n]}", (f"{ours}/LayerScale_{n}/scale",)))
    mlp = f"{ours}/MlpBlock_0"
    if gated:
        # The first half of the outputs goes through silu.
        both = (f"{mlp}/Gate_0", f"{mlp}/Dense_0")
        first, last = (f"{theirs}.{name}" for name in names.gated)
        rules.append(Rule(f"{first}.weight", tuple(f"{x}/kernel" for x in both), LINEAR))
        rules.append(Rule(f"{first}.bias", tuple(f"{x}/bias" for x in both), SAME))
        return rules + linear(last, f"{mlp}/Dense_1")
    for n in (0, 1):
        rules += linear(f"{theirs}.{names.mlp[n]}", f"{mlp}/Dense_{n}")
    return rules


def stack(
    theirs: str, ours: str, heads: int, names: BlockNames, last: str, gated: bool = False
) -> list[Rule]:
    """All blocks, `theirs` followed by a number, and the norm behind them, called `last`."""
    rules = block(f"{theirs}.{{i}}", f"{ours}/encoderblock_{{i}}", heads, names, gated)
    return rules + norm(last, f"{ours}/encoder_norm")


def map_pool(theirs: str, ours: str, heads: int) -> list[Rule]:
    """SigLIP's attention pool as transformers calls it."""
    return [
        Rule(f"{theirs}.probe", (f"{ours}/probe",)),
        *attention(f"{theirs}.attention", f"{ours}/{ATTENTION}", heads, ("in_proj_",), "out_proj"),
        *norm(f"{theirs}.layernorm", f"{ours}/LayerNorm_0"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1"),
    ]
