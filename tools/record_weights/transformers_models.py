"""Tiny models of transformers, saved as it saves them, and what they compute."""

import pathlib
import tempfile

import numpy as np
from common import (
    CLASSES,
    DEPTH,
    FEATURES,
    HEADS,
    LENGTH,
    MLP,
    PATCH,
    SIDE,
    TEXT_HEADS,
    TEXT_WIDTH,
    VOCABULARY,
    WIDTH,
    Arrays,
    files_of,
    images,
    lower_variance,
    randomise,
    tokens,
    torch_images,
)

TOWER = {
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    "intermediate_size": MLP, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
TEXT = {
    "hidden_size": TEXT_WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": TEXT_HEADS,
    "intermediate_size": MLP, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH,
}  # fmt: skip
EAGER = {"attn_implementation": "eager"}


def _saved(model, processor, arrays: Arrays) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        return arrays | files_of(pathlib.Path(folder))


def _tower(arrays: Arrays, case: str, hidden, prefix: str = "") -> None:
    for i, x in enumerate(hidden[1:]):
        arrays[f"{case}/{prefix}block{i:02d}"] = x.numpy()


def _record(model, processor, seed: int, outputs, **options) -> Arrays:
    """A tower alone: `outputs` are {our name: function of transformers' output}."""
    import torch

    rng = np.random.default_rng(seed)
    randomise(model.eval(), rng)
    inputs = images(rng)
    files = _saved(model, processor, {})
    arrays = {}
    for case, x in (inputs | {"low": inputs["native"]}).items():
        arrays[f"{case}/images"] = x
        if case == "low":
            lower_variance(model)
        with torch.no_grad():
            out = model(torch_images(x), output_hidden_states=True, **options)
        _tower(arrays, case, out.hidden_states)
        for name, read in outputs.items():
            arrays[f"{case}/{name}"] = read(out).numpy()
    return arrays | files


def vit(seed: int = 0) -> Arrays:
    import transformers as hf

    model = hf.ViTForImageClassification(
        hf.ViTConfig(**TOWER, hidden_act="gelu", num_labels=CLASSES, **EAGER)
    )
    processor = hf.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return _record(
        model, processor, seed, {"logits": lambda out: out.logits}, interpolate_pos_encoding=True
    )


def vit_with_pooler(seed: int = 1) -> Arrays:
    import transformers as hf

    model = hf.ViTModel(hf.ViTConfig(**TOWER, qkv_bias=False, **EAGER), add_pooling_layer=True)
    outputs = {
        "encoded": lambda out: out.last_hidden_state,
        "logits": lambda out: out.pooler_output,
    }
    return _record(model, None, seed, outputs, interpolate_pos_encoding=True)


def deit(seed: int = 2) -> Arrays:
    import transformers as hf

    model = hf.DeiTForImageClassificationWithTeacher(
        hf.DeiTConfig(**TOWER, num_labels=CLASSES, **EAGER)
    )
    processor = hf.DeiTImageProcessor(
        size={"height": 18, "width": 18}, crop_size={"height": SIDE, "width": SIDE}
    )
    outputs = {
        "head": lambda out: out.cls_logits,
        "head_dist": lambda out: out.distillation_logits,
        "logits": lambda out: out.logits,
    }
    return _record(model, processor, seed, outputs, interpolate_pos_encoding=True)


def dinov2(seed: int = 3) -> Arrays:
    import transformers as hf

    sizes = {k: x for k, x in TOWER.items() if k != "intermediate_size"}
    model = hf.Dinov2Model(hf.Dinov2Config(**sizes, mlp_ratio=2, **EAGER))
    processor = hf.BitImageProcessor(
        size={"shortest_edge": 18}, crop_size={"height": SIDE, "width": SIDE}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    return _record(model, processor, seed, {"encoded": lambda out: out.last_hidden_state})


def dinov2_gated(seed: int = 4) -> Arrays:
    import transformers as hf

    sizes = {k: x for k, x in TOWER.items() if k != "intermediate_size"}
    model = hf.Dinov2Model(hf.Dinov2Config(**sizes, mlp_ratio=3, use_swiglu_ffn=True, **EAGER))
    return _record(model, None, seed, {"encoded": lambda out: out.last_hidden_state})


def dinov2_with_registers(seed: int = 5) -> Arrays:
    import transformers as hf

    sizes = {k: x for k, x in TOWER.items() if k != "intermediate_size"}
    model = hf.Dinov2WithRegistersModel(
        hf.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=3, **EAGER)
    )
    return _record(model, None, seed, {"encoded": lambda out: out.last_hidden_state})


def clip_vision(seed: int = 6) -> Arrays:
    import transformers as hf

    model = hf.CLIPVisionModelWithProjection(
        hf.CLIPVisionConfig(**TOWER, hidden_act="gelu", projection_dim=FEATURES, **EAGER)
    )
    outputs = {"logits": lambda out: out.image_embeds}
    return _record(model, None, seed, outputs, interpolate_pos_encoding=True)


def siglip_vision(seed: int = 7) -> Arrays:
    import transformers as hf

    model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER, **EAGER))
    outputs = {
        "encoded": lambda out: out.last_hidden_state,
        "logits": lambda out: out.pooler_output,
    }
    return _record(model, None, seed, outputs, interpolate_pos_encoding=True)


def _record_pair(model, processor, seed: int, end: bool) -> Arrays:
    import torch

    rng = np.random.default_rng(seed)
    randomise(model.eval(), rng)
    arrays = {}
    inputs, text = images(rng), tokens(rng, end)
    files = _saved(model, processor, {})
    for case, x in (inputs | {"low": inputs["native"]}).items():
        if case == "low":
            lower_variance(model)
        arrays |= {f"{case}/images": x, f"{case}/tokens": text}
        with torch.no_grad():
            out = model(
                pixel_values=torch_images(x), input_ids=torch.from_numpy(text).long(),
                interpolate_pos_encoding=True, output_hidden_states=True,
            )  # fmt: skip
        _tower(arrays, case, out.vision_model_output.hidden_states, "img/")
        _tower(arrays, case, out.text_model_output.hidden_states, "txt/")
        arrays[f"{case}/img/features"] = out.image_embeds.numpy()
        arrays[f"{case}/txt/features"] = out.text_embeds.numpy()
        arrays[f"{case}/logits"] = out.logits_per_image.numpy()
    return arrays | files


def clip(seed: int = 8) -> Arrays:
    import transformers as hf

    last = VOCABULARY - 1
    model = hf.CLIPModel(
        hf.CLIPConfig(
            vision_config=TOWER,
            text_config={**TEXT, "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": 0},
            projection_dim=FEATURES,
            **EAGER,
        )
    )
    processor = hf.CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return _record_pair(model, processor, seed, end=True)


def siglip(seed: int = 9) -> Arrays:
    import transformers as hf

    last = VOCABULARY - 1
    model = hf.SiglipModel(
        hf.SiglipConfig(
            vision_config=TOWER,
            text_config={
                **TEXT, "projection_size": WIDTH, "pad_token_id": 1, "bos_token_id": last,
                "eos_token_id": last,
            },
            **EAGER,
        )
    )  # fmt: skip
    processor = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return _record_pair(model, processor, seed, end=False)


RECORDS = {
    "L09-vit": vit,
    "L09-pooler": vit_with_pooler,
    "L10-deit": deit,
    "L11-clip": clip,
    "L11-vision": clip_vision,
    "L12-siglip": siglip,
    "L12-vision": siglip_vision,
    "L13-dinov2": dinov2,
    "L13-gated": dinov2_gated,
    "L14-registers": dinov2_with_registers,
}
