"""Published names of CLIP, SigLIP and CLIP's ResNets read into trees of our parameters."""

import numpy as np


class Weights:
    """The arrays of one file; knows what was never read. Heads are those of one tower."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = {k.removeprefix("file/"): x for k, x in arrays.items() if "file/" in k}
        self.unread = set(self.arrays)

    def __call__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        return self.arrays[name]

    def norm(self, name: str) -> dict:
        return {"scale": self(f"{name}.weight"), "bias": self(f"{name}.bias")}

    def dense(self, name: str) -> dict:
        return {"kernel": self(f"{name}.weight").T, "bias": self(f"{name}.bias")}

    def mlp(self, name: str, layers: tuple[str, str] = ("fc1", "fc2")) -> dict:
        return {f"Dense_{i}": self.dense(f"{name}.{layer}") for i, layer in enumerate(layers)}

    def batch_norm(self, name: str) -> dict:
        self(f"{name}.num_batches_tracked")
        statistics = {"mean": self(f"{name}.running_mean"), "var": self(f"{name}.running_var")}
        return self.norm(name) | statistics

    def convolution(self, name: str) -> dict:
        return {"kernel": self(f"{name}.weight").transpose(2, 3, 1, 0)}

    def attention(self, name: str, heads: int, out: str = "out_proj") -> dict:
        """Query, key and value apart, or packed in that order."""
        if f"{name}.in_proj_weight" in self.arrays:
            kernels = np.split(self(f"{name}.in_proj_weight"), 3)
            biases = np.split(self(f"{name}.in_proj_bias"), 3)
            parts = [{"kernel": k.T, "bias": b} for k, b in zip(kernels, biases, strict=True)]
        else:
            parts = [self.dense(f"{name}.{x}_proj") for x in "qkv"]
        return on_heads(parts, self.dense(f"{name}.{out}"), heads)


def on_heads(parts: list[dict], out: dict, heads: int) -> dict:
    tree = {}
    for name, part in zip(("query", "key", "value"), parts, strict=True):
        kernel = part["kernel"].reshape(len(part["kernel"]), heads, -1)
        tree[name] = {"kernel": kernel, "bias": part["bias"].reshape(heads, -1)}
    kernel = out["kernel"].reshape(heads, -1, out["kernel"].shape[1])
    return tree | {"out": {"kernel": kernel, "bias": out["bias"]}}


def transformers_tree(weights: Weights, image_heads: int, text_heads: int, depth: int) -> dict:
    """CLIPModel and SiglipModel."""

    def encoder(tower: str, heads: int, last: str) -> dict:
        tree = {"encoder_norm": weights.norm(f"{tower}.{last}")}
        for i in range(depth):
            at = f"{tower}.encoder.layers.{i}"
            tree[f"encoderblock_{i}"] = {
                "LayerNorm_0": weights.norm(f"{at}.layer_norm1"),
                "LayerNorm_1": weights.norm(f"{at}.layer_norm2"),
                "MlpBlock_0": weights.mlp(f"{at}.mlp"),
                "MultiHeadDotProductAttention_0": weights.attention(f"{at}.self_attn", heads),
            }
        return tree

    vision, text = "vision_model", "text_model"
    image = {
        "embedding": weights.convolution(f"{vision}.embeddings.patch_embedding"),
        "pos_embedding": weights(f"{vision}.embeddings.position_embedding.weight")[None],
        "Transformer": encoder(vision, image_heads, "post_layernorm"),
    }
    texts = {
        "Embed_0": {"embedding": weights(f"{text}.embeddings.token_embedding.weight")},
        "pos_embedding": weights(f"{text}.embeddings.position_embedding.weight")[None],
        "Encoder_0": encoder(text, text_heads, "final_layer_norm"),
    }
    tree = {"img": image, "txt": texts, "t": weights("logit_scale").reshape(1)}
    if "logit_bias" in weights.arrays:
        tree["b"] = weights("logit_bias")
        image["embedding"]["bias"] = weights(f"{vision}.embeddings.patch_embedding.bias")
        image["MAPHead_0"] = {
            "probe": weights(f"{vision}.head.probe"),
            "LayerNorm_0": weights.norm(f"{vision}.head.layernorm"),
            "MlpBlock_0": weights.mlp(f"{vision}.head.mlp"),
            "MultiHeadDotProductAttention_0": weights.attention(
                f"{vision}.head.attention", image_heads
            ),
        }
        texts["head"] = weights.dense(f"{text}.head")
    else:
        image["cls"] = weights(f"{vision}.embeddings.class_embedding")[None, None]
        image["pre_norm"] = weights.norm(f"{vision}.pre_layrnorm")
        image["head"] = {"kernel": weights("visual_projection.weight").T}
        texts["head"] = {"kernel": weights("text_projection.weight").T}
    return tree


def resnet_tree(weights: Weights, stages: tuple[int, ...], heads: int) -> dict:
    """open_clip's and OpenAI's ModifiedResNet."""
    tree = {}
    for i in range(3):
        tree[f"conv_{i}"] = weights.convolution(f"conv{i + 1}")
        tree[f"norm_{i}"] = weights.batch_norm(f"bn{i + 1}")
    for i, depth in enumerate(stages):
        for j in range(depth):
            at, block = f"layer{i + 1}.{j}", {}
            for k in range(3):
                block[f"conv_{k}"] = weights.convolution(f"{at}.conv{k + 1}")
                block[f"norm_{k}"] = weights.batch_norm(f"{at}.bn{k + 1}")
            if f"{at}.downsample.0.weight" in weights.arrays:
                block["conv_shortcut"] = weights.convolution(f"{at}.downsample.0")
                block["norm_shortcut"] = weights.batch_norm(f"{at}.downsample.1")
            tree[f"stage{i}_block{j:02d}"] = block
    table = weights("attnpool.positional_embedding")[None]
    return tree | {"pool": weights.attention("attnpool", heads, "c_proj"), "pos_embedding": table}


def coca_tree(weights: Weights, heads: dict[str, int], depth: int) -> dict:
    """open_clip's CoCa; `heads` of img, txt (and the decoder) and pool."""

    def block(at: str, heads: int) -> dict:
        return {
            "LayerNorm_0": weights.norm(f"{at}.ln_1"),
            "LayerNorm_1": weights.norm(f"{at}.ln_2"),
            "MlpBlock_0": weights.mlp(f"{at}.mlp", ("c_fc", "c_proj")),
            "MultiHeadDotProductAttention_0": weights.attention(f"{at}.attn", heads),
        }

    def encoder(prefix: str, heads: int, last: str) -> dict:
        blocks = {
            f"encoderblock_{i}": block(f"{prefix}.transformer.resblocks.{i}", heads)
            for i in range(depth)
        }
        return blocks | {"encoder_norm": weights.norm(last)}

    def decoder_block(i: int) -> dict:
        at = f"text_decoder.cross_attn.{i}"
        context = {"LayerNorm_context": weights.norm(f"{at}.ln_1_kv")}
        own = {"Block_0": block(f"text_decoder.resblocks.{i}", heads["txt"])}
        return block(at, heads["txt"]) | context | own

    pool = "visual.attn_pool"
    parts = [weights(f"{pool}.attn.{x}_proj_weight").T for x in "qkv"]
    biases = np.split(weights(f"{pool}.attn.in_proj_bias"), 3)
    packed = [{"kernel": k, "bias": b} for k, b in zip(parts, biases, strict=True)]
    last = {f"encoderblock_{i}": decoder_block(i) for i in range(depth)}
    return {
        "img": {
            "embedding": weights.convolution("visual.conv1"),
            "cls": weights("visual.class_embedding")[None, None],
            "pos_embedding": weights("visual.positional_embedding")[None],
            "pre_norm": weights.norm("visual.ln_pre"),
            "Transformer": encoder("visual", heads["img"], f"{pool}.ln_k"),
        },
        "txt": {
            "Embed_0": {"embedding": weights("text.token_embedding.weight")},
            "pos_embedding": weights("text.positional_embedding")[None],
            "cls": weights("text.cls_emb")[None, None],
            "Encoder_0": encoder("text", heads["txt"], "text.ln_final"),
            "head": {"kernel": weights("text.text_projection")},
        },
        "pool": {
            "queries": weights(f"{pool}.query")[None],
            "LayerNorm_0": weights.norm(f"{pool}.ln_q"),
            "MultiHeadDotProductAttention_0": on_heads(
                packed, weights.dense(f"{pool}.attn.out_proj"), heads["pool"]
            ),
            "LayerNorm_1": weights.norm("visual.ln_post"),
            "head": {"kernel": weights("visual.proj")},
        },
        "decoder": {
            "Decoder_0": last | {"encoder_norm": weights.norm("text_decoder.ln_final")},
            "head": {"kernel": weights("text_decoder.text_projection")},
        },
        "t": weights("logit_scale").reshape(1),
    }
