"""Tiny models of open_clip, saved as it saves them for the hub, and OpenAI's files through it."""

import contextlib
import functools
import json
import pathlib
import tempfile

import numpy as np
from common import (
    DEPTH,
    FEATURES,
    HEADS,
    LENGTH,
    MLP,
    OTHER,
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
    noise,
    randomise,
    tokens,
    torch_images,
)

VISION = {
    "image_size": SIDE, "layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS,
    "patch_size": PATCH, "mlp_ratio": MLP / WIDTH,
}  # fmt: skip
TEXT = {
    "context_length": LENGTH, "vocab_size": VOCABULARY, "width": TEXT_WIDTH, "heads": TEXT_HEADS,
    "layers": DEPTH, "mlp_ratio": MLP / TEXT_WIDTH,
}  # fmt: skip
WIDE = (OTHER[0], OTHER[1] - 2 * PATCH)
"""open_clip compares the number of positions only: another one is what it resamples."""
RATIO = {"mlp_ratio": 4.0}  # which CoCa's decoder has whatever is said
PREPROCESS = {"size": [SIDE, SIDE], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
              "interpolation": "bicubic", "resize_mode": "squash"}  # fmt: skip


def saved(model, about: dict, preprocess: dict | None = None) -> Arrays:
    """The two files of a folder that `open_clip.create_model("local-dir:...")` loads."""
    from safetensors.torch import save_file

    state = {k: x.contiguous().clone() for k, x in model.state_dict().items()}
    config = {"model_cfg": about, "preprocess_cfg": preprocess or PREPROCESS}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        save_file(state, path / "open_clip_model.safetensors")
        (path / "open_clip_config.json").write_text(json.dumps(config))
        return files_of(path)


def run(model, x: np.ndarray, text: np.ndarray, case: str) -> Arrays:
    """Blocks of both towers, features and logits."""
    import torch

    arrays = {f"{case}/images": x, f"{case}/tokens": text}
    towers = {"img": _blocks(model.visual), "txt": _blocks(getattr(model, "text", model))}
    hooks = []
    for tower, blocks in towers.items():
        for i, block in enumerate(blocks):
            name = f"{case}/{tower}/block{i:02d}"
            hooks.append(block.register_forward_hook(functools.partial(_keep, arrays, name)))
    with torch.no_grad():
        image = model.encode_image(torch_images(x), normalize=True)
        texts = model.encode_text(torch.from_numpy(text).long(), normalize=True)
        logits = model.logit_scale.exp() * image @ texts.T
        if getattr(model, "logit_bias", None) is not None:
            logits = logits + model.logit_bias
    for hook in hooks:
        hook.remove()
    arrays[f"{case}/img/features"] = image.numpy()
    arrays[f"{case}/txt/features"] = texts.numpy()
    arrays[f"{case}/logits"] = logits.numpy()
    return arrays


def run_native(model, x: np.ndarray, text: np.ndarray) -> Arrays:
    """As it is, and with embeddings of low variance, which changes the model."""
    arrays = run(model, x, text, "native")
    lower_variance(model)
    return arrays | run(model, x, text, "low")


def _blocks(tower):
    if hasattr(tower, "trunk"):
        return tower.trunk.blocks
    return tower.transformer.resblocks if hasattr(tower, "transformer") else []


def _keep(arrays: Arrays, name: str, module, inputs, output) -> None:
    arrays[name] = output.detach().numpy().copy()


def _inputs(seed: int, end: bool = True):
    rng = np.random.default_rng(1000 + seed)
    return images(rng), tokens(rng, end)


def _native(seed: int, custom: bool, quick: bool, **text) -> Arrays:
    """At the other size a second model resamples the first one's positions as it loads them."""
    import open_clip
    from open_clip.model import resize_pos_embed

    about = {"embed_dim": FEATURES, "quick_gelu": quick, "custom_text": custom,
             "vision_cfg": VISION, "text_cfg": TEXT | text}  # fmt: skip
    build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    fields = {k: x for k, x in about.items() if k != "custom_text"}
    model = build(**fields).eval()
    randomise(model, np.random.default_rng(seed))
    wide = build(**(fields | {"vision_cfg": VISION | {"image_size": WIDE}})).eval()
    state = dict(model.state_dict())
    resize_pos_embed(state, wide)
    wide.load_state_dict(state)
    x, text_ids = _inputs(seed)
    arrays = saved(model, about) | run(wide, x["other"][:, :, : WIDE[1]], text_ids, "other")
    return arrays | run_native(model, x["native"], text_ids)


def clip(seed: int = 40) -> Arrays:
    return _native(seed, custom=False, quick=True)


def custom_text(seed: int = 41) -> Arrays:
    return _native(seed, custom=True, quick=False)


def resnet(seed: int = 42) -> Arrays:
    import open_clip

    about = {
        "embed_dim": FEATURES, "quick_gelu": False, "custom_text": False, "text_cfg": TEXT,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 2, "head_width": 16},
    }  # fmt: skip
    model = open_clip.CLIP(**{k: x for k, x in about.items() if k != "custom_text"}).eval()
    randomise(model, np.random.default_rng(seed))
    x = np.random.default_rng(seed).standard_normal((2, 64, 64, 3)).astype(np.float32)
    preprocess = PREPROCESS | {"size": [64, 64], "resize_mode": "shortest"}
    return saved(model, about, preprocess) | run_native(model, x, _inputs(seed)[1])


@contextlib.contextmanager
def tiny_towers():
    """timm's towers in open_clip's models at our sizes, for any size of image."""
    from open_clip import timm_model

    create = timm_model.timm.create_model
    tiny = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH,
            "num_heads": HEADS, "mlp_ratio": MLP / WIDTH, "dynamic_img_size": True}  # fmt: skip
    timm_model.timm.create_model = lambda name, **args: create(name, **(args | tiny))
    try:
        yield
    finally:
        timm_model.timm.create_model = create


def siglip_settings(**text) -> dict:
    return {
        "embed_dim": WIDTH, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {
            "image_size": SIDE, "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": TEXT | {
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6}, **text,
        },
    }  # fmt: skip


def build_siglip(about: dict):
    import open_clip

    with tiny_towers():
        fields = {k: x for k, x in about.items() if k != "custom_text"}
        return open_clip.CustomTextCLIP(**fields).eval()


def siglip(seed: int = 43) -> Arrays:
    about = siglip_settings()
    model = build_siglip(about)
    randomise(model, np.random.default_rng(seed))
    x, text = _inputs(seed, end=False)
    arrays = saved(model, about) | run(model, x["other"], text, "other")
    return arrays | run_native(model, x["native"], text)


def coca(seed: int = 44) -> Arrays:
    import open_clip
    import torch

    width = TEXT_WIDTH
    about = {
        "embed_dim": width,
        "vision_cfg": VISION | {
            "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4,
            "output_tokens": True,
        },
        "text_cfg": TEXT | RATIO | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | RATIO,
    }  # fmt: skip
    model = open_clip.CoCa(**about).eval()
    randomise(model, np.random.default_rng(seed))
    x, text = _inputs(seed)
    text[text == 0] = 1
    for row, at in enumerate((5, 11)):
        text[row, at:] = 0
    arrays = saved(model, about | {"custom_text": True})
    for case in ("native", "low"):
        if case == "low":
            lower_variance(model)
        with torch.no_grad():
            out = model(
                torch_images(x["native"]), torch.from_numpy(text).long(), output_labels=False
            )
        arrays |= {
            f"{case}/images": x["native"], f"{case}/tokens": text,
            f"{case}/img/features": out["image_features"].numpy(),
            f"{case}/txt/features": out["text_features"].numpy(),
            f"{case}/caption/logits": out["logits"].numpy(),
        }  # fmt: skip
    return arrays


# OpenAI's: names by hand, outputs through open_clip's loader. Its heads have 64 features.


def _openai(visual: dict, side: int, seed: int) -> Arrays:
    import torch
    from open_clip.model import build_model_from_openai_state_dict

    names = {**visual, **_text_names(64), "logit_scale": ()}
    rng = np.random.default_rng(seed)
    state = {name: torch.from_numpy(noise(name, shape, rng)) for name, shape in names.items()}
    marks = {"input_resolution": side, "context_length": LENGTH, "vocab_size": VOCABULARY}
    state |= {name: torch.tensor(n) for name, n in marks.items()}
    state |= {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in names if name.endswith("running_mean")
    }  # fmt: skip
    model = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32)
    half = {name: x.numpy().copy() for name, x in model.state_dict().items()}  # as published
    x = np.random.default_rng(seed).standard_normal((2, side, side, 3)).astype(np.float32)
    file = half | {name: np.array(n) for name, n in marks.items()}
    outputs = run_native(model.float(), x, _inputs(seed)[1])
    return outputs | {f"script/{name}": x for name, x in file.items()}


def _norm(name: str, width: int) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _blocks_of(name: str, width: int, depth: int) -> dict:
    found = {}
    for i in range(depth):
        at = f"{name}.{i}"
        found |= _norm(f"{at}.ln_1", width) | _norm(f"{at}.ln_2", width)
        found |= {
            f"{at}.attn.in_proj_weight": (3 * width, width),
            f"{at}.attn.in_proj_bias": (3 * width,),
            f"{at}.attn.out_proj.weight": (width, width), f"{at}.attn.out_proj.bias": (width,),
            f"{at}.mlp.c_fc.weight": (4 * width, width), f"{at}.mlp.c_fc.bias": (4 * width,),
            f"{at}.mlp.c_proj.weight": (width, 4 * width), f"{at}.mlp.c_proj.bias": (width,),
        }  # fmt: skip
    return found


def _text_names(width: int) -> dict:
    return {
        "token_embedding.weight": (VOCABULARY, width), "positional_embedding": (LENGTH, width),
        **_blocks_of("transformer.resblocks", width, 1), **_norm("ln_final", width),
        "text_projection": (width, FEATURES),
    }  # fmt: skip


def openai_vit(seed: int = 45) -> Arrays:
    width, patches = 64, (SIDE // PATCH) ** 2
    visual = {
        "visual.class_embedding": (width,), "visual.positional_embedding": (1 + patches, width),
        "visual.conv1.weight": (width, 3, PATCH, PATCH), "visual.proj": (width, FEATURES),
        **_norm("visual.ln_pre", width), **_norm("visual.ln_post", width),
        **_blocks_of("visual.transformer.resblocks", width, 1),
    }  # fmt: skip
    return _openai(visual, SIDE, seed)


def openai_resnet(seed: int = 46) -> Arrays:
    """The names and shapes of open_clip's ResNet are OpenAI's."""
    from open_clip.modified_resnet import ModifiedResNet

    model = ModifiedResNet([1, 2, 1, 1], FEATURES, heads=2, image_size=64, width=4)
    visual = {
        f"visual.{name}": tuple(x.shape)
        for name, x in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return _openai(visual, 64, seed)


RECORDS = {
    "L04-vit": openai_vit,
    "L05-resnet": openai_resnet,
    "L06-clip": clip,
    "L06-custom": custom_text,
    "L06-resnet": resnet,
    "L07-siglip": siglip,
    "L08-coca": coca,
}
