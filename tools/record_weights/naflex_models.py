"""SigLIP 2 of variable shape: transformers' Siglip2Model, and big_vision's names through it."""

import numpy as np
from common import (
    LENGTH,
    MLP,
    PATCH,
    TEXT_HEADS,
    TEXT_WIDTH,
    VOCABULARY,
    WIDTH,
    Arrays,
    lower_variance,
    randomise,
    tokens,
)
from npz_models import GRID, _dense, _draw, _image, _stack
from transformers_models import EAGER, TEXT, TOWER, _saved, _tower

SHAPES = ((2, 8), (5, 2))
"""Rows and columns of each image's patches, from a table of 4x4: each grows along one side and
shrinks along the other."""
BUDGET = 16
PICTURES = ((40, 90), (77, 23), (9, 9))
"""Pixels of pictures for the processor."""
VISION = {k: x for k, x in TOWER.items() if k != "image_size"} | {"num_patches": GRID**2}


def _model():
    import transformers as hf

    last = VOCABULARY - 1
    text = {**TEXT, "projection_size": WIDTH, "pad_token_id": 0, "bos_token_id": last,
            "eos_token_id": last}  # fmt: skip
    return hf.Siglip2Model(hf.Siglip2Config(vision_config=VISION, text_config=text, **EAGER)).eval()


def _patches(rng: np.random.Generator) -> Arrays:
    """Images as the processor gives them: filling is zeros."""
    images = np.zeros((len(SHAPES), BUDGET, 3 * PATCH**2), np.float32)
    positions = np.zeros((len(SHAPES), BUDGET, 2), np.int32)
    mask = np.zeros((len(SHAPES), BUDGET), bool)
    for row, (rows, columns) in enumerate(SHAPES):
        n = rows * columns
        images[row, :n] = rng.standard_normal((n, images.shape[-1]))
        positions[row, :n] = np.stack(np.divmod(np.arange(n), columns), axis=-1)
        mask[row, :n] = True
    return {"images": images, "positions": positions, "mask": mask}


def _outputs(model, seed: int) -> Arrays:
    import torch

    rng, arrays = np.random.default_rng(seed), {}
    made, text = _patches(rng), tokens(rng, False)
    for case in ("native", "low"):
        if case == "low":
            lower_variance(model)
        with torch.no_grad():
            out = model(
                pixel_values=torch.from_numpy(made["images"]),
                pixel_attention_mask=torch.from_numpy(made["mask"]).int(),
                spatial_shapes=torch.tensor(SHAPES),
                input_ids=torch.from_numpy(text).long(), output_hidden_states=True,
            )  # fmt: skip
        arrays |= {f"{case}/{k}": x for k, x in made.items()} | {f"{case}/tokens": text}
        _tower(arrays, case, out.vision_model_output.hidden_states, "img/")
        _tower(arrays, case, out.text_model_output.hidden_states, "txt/")
        arrays[f"{case}/img/encoded"] = out.vision_model_output.last_hidden_state.numpy()
        arrays[f"{case}/img/features"] = out.image_embeds.numpy()
        arrays[f"{case}/txt/features"] = out.text_embeds.numpy()
        arrays[f"{case}/logits"] = out.logits_per_image.numpy()
    return arrays


def _processed(rng: np.random.Generator) -> tuple[object, Arrays]:
    """The processor, and what it makes of pictures of several shapes (Pillow's arithmetic)."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    processor = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=BUDGET)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in PICTURES]
    made = processor(pictures, return_tensors="np")
    arrays = {f"picture/{i}": x for i, x in enumerate(pictures)}
    return processor, arrays | {
        "processed/patches": made["pixel_values"].astype(np.float32),
        "processed/mask": made["pixel_attention_mask"].astype(bool),
        "processed/shapes": np.asarray(made["spatial_shapes"]),
    }


def siglip2(seed: int = 80) -> Arrays:
    model = _model()
    rng = np.random.default_rng(seed)
    randomise(model, rng)
    processor, arrays = _processed(rng)
    return _saved(model, processor, arrays) | _outputs(model, seed)


def siglip2_vision(seed: int = 81) -> Arrays:
    """The image tower alone."""
    import torch
    import transformers as hf

    model = hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**VISION, **EAGER)).eval()
    rng = np.random.default_rng(seed)
    randomise(model, rng)
    files, made = _saved(model, None, {}), _patches(rng)
    arrays = {}
    for case in ("native", "low"):
        if case == "low":
            lower_variance(model)
        with torch.no_grad():
            out = model(
                torch.from_numpy(made["images"]), torch.from_numpy(made["mask"]).int(),
                torch.tensor(SHAPES), output_hidden_states=True,
            )  # fmt: skip
        arrays |= {f"{case}/{k}": x for k, x in made.items()}
        _tower(arrays, case, out.hidden_states)
        arrays[f"{case}/encoded"] = out.last_hidden_state.numpy()
        arrays[f"{case}/logits"] = out.pooler_output.numpy()
    return arrays | files


def big_vision(seed: int = 82) -> Arrays:
    """big_vision's names by hand: kernels of flat patches, positions as a grid."""
    import torch

    text = {
        "Embed_0/embedding": (VOCABULARY, TEXT_WIDTH), "pos_embedding": (1, LENGTH, TEXT_WIDTH),
        **_stack("Encoder_0", TEXT_WIDTH, TEXT_HEADS, MLP), **_dense("head", TEXT_WIDTH, WIDTH),
    }  # fmt: skip
    names = _image("params/img/", "map") | {f"params/txt/{k}": x for k, x in text.items()}
    names |= {"params/img/embedding/kernel": (3 * PATCH**2, WIDTH), "params/t": (1,),
              "params/b": (1,), "params/img/pos_embedding": (GRID, GRID, WIDTH)}  # fmt: skip
    file = _draw(names, seed)
    model = _model()
    state = {k: torch.from_numpy(np.ascontiguousarray(x)) for k, x in _in_transformers(file)}
    model.load_state_dict(state, strict=True)
    found = {f"npz/{name}": x for name, x in file.items()} | _outputs(model, seed)
    return found | {"through": np.array("transformers' model")}


_TOWERS = {"img": ("vision_model", "Transformer"), "txt": ("text_model", "Encoder_0")}
_PARTS = {
    "LayerNorm_0": "layer_norm1", "LayerNorm_1": "layer_norm2", "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
    "MultiHeadDotProductAttention_0/query": "self_attn.q_proj",
    "MultiHeadDotProductAttention_0/key": "self_attn.k_proj",
    "MultiHeadDotProductAttention_0/value": "self_attn.v_proj",
    "MultiHeadDotProductAttention_0/out": "self_attn.out_proj",
}  # fmt: skip
_LAST = {"scale": "weight", "kernel": "weight", "bias": "bias"}


def _in_transformers(file: Arrays):
    """(name, array) of a Siglip2Model, written from the key lists of both."""
    at = "params/img/MAPHead_0/MultiHeadDotProductAttention_0"
    parts = ("query", "key", "value")
    head = "vision_model.head"
    yield (
        f"{head}.attention.in_proj_weight",
        np.concatenate([file[f"{at}/{x}/kernel"].reshape(WIDTH, -1).T for x in parts]),
    )
    yield (
        f"{head}.attention.in_proj_bias",
        np.concatenate([file[f"{at}/{x}/bias"].reshape(-1) for x in parts]),
    )
    yield f"{head}.attention.out_proj.weight", file[f"{at}/out/kernel"].reshape(-1, WIDTH).T
    yield f"{head}.attention.out_proj.bias", file[f"{at}/out/bias"]
    yield f"{head}.probe", file["params/img/MAPHead_0/probe"]
    yield "logit_scale", file["params/t"]
    yield "logit_bias", file["params/b"]
    whole = {
        "img/embedding": "vision_model.embeddings.patch_embedding",
        "img/MAPHead_0/LayerNorm_0": f"{head}.layernorm",
        "img/MAPHead_0/MlpBlock_0/Dense_0": f"{head}.mlp.fc1",
        "img/MAPHead_0/MlpBlock_0/Dense_1": f"{head}.mlp.fc2",
        "img/Transformer/encoder_norm": "vision_model.post_layernorm",
        "txt/Encoder_0/encoder_norm": "text_model.final_layer_norm",
        "txt/head": "text_model.head",
    }
    for old, new in whole.items():
        for last, named in _LAST.items():
            x = file.get(f"params/{old}/{last}")
            if x is not None:
                yield f"{new}.{named}", x.T
    for tower, (model, stack) in _TOWERS.items():
        table = file[f"params/{tower}/pos_embedding"]
        yield f"{model}.embeddings.position_embedding.weight", table.reshape(-1, table.shape[-1])
        yield from _blocks(file, f"params/{tower}/{stack}", f"{model}.encoder.layers")
    yield "text_model.embeddings.token_embedding.weight", file["params/txt/Embed_0/embedding"]


def _blocks(file: Arrays, old: str, new: str):
    for name, x in file.items():
        block, _, rest = name.removeprefix(f"{old}/encoderblock_").partition("/")
        part, _, last = rest.rpartition("/")
        if not name.startswith(f"{old}/encoderblock_"):
            continue
        width = x.shape[-1] if part.endswith("/out") else x.shape[0]
        if "Attention" in part:  # heads are an axis of their own
            x = x.reshape(-1, width) if part.endswith("/out") else x.reshape(width, -1)
            x = x.reshape(-1) if last == "bias" else x
        yield f"{new}.{block}.{_PARTS[part]}.{_LAST[last]}", x.T


RECORDS = {
    "L23-siglip2": siglip2,
    "L23-vision": siglip2_vision,
    "L24-siglip2": big_vision,
}
