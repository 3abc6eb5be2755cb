"""ViT-MAE of transformers, and MAE's own files through it: masks by given noise, pixels, losses."""

import numpy as np
from common import (
    DEPTH,
    LOW,
    MLP,
    OTHER,
    PATCH,
    SIDE,
    WIDTH,
    Arrays,
    noise,
    randomise,
    torch_images,
)
from timm_models import BLOCK, PLAIN, names_of
from transformers_models import EAGER, TOWER, _saved

NATIVE, FEWER = (SIDE, SIDE), 12
"""Pixels of images; patches of one for which the decoder's positions are shown."""
DECODER = {
    "decoder_hidden_size": WIDTH, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": MLP,
}  # fmt: skip
MASKED = {"mask_ratio": 0.5}
"""Of every model, so that few shapes are compiled in the tests."""
LOWERED = ("embeddings.", "decoder_embed", "mask_token", "decoder_pos_embed")


def _lower(model) -> None:
    """Brings the variance before the first norms of encoder and decoder near epsilon."""
    import torch

    with torch.no_grad():
        for name, x in model.named_parameters():
            if any(part in name for part in LOWERED):
                x.mul_(LOW[model.config.layer_norm_eps])


def _outputs(model, seed: int, sizes: dict[str, tuple[int, int]]) -> Arrays:
    """Blocks of encoder and decoder, pixels and both losses of images whose noise is given."""
    import torch

    rng, arrays, seen = np.random.default_rng(seed), {}, []
    whole = hasattr(model, "decoder")
    encoder = model.vit if whole else model
    blocks = [*encoder.layers, encoder.layernorm]
    if whole:
        blocks += [*model.decoder.decoder_layers]
    hooks = [x.register_forward_hook(lambda *x: seen.append(x[-1].numpy())) for x in blocks]
    names = [*(f"block{i:02d}" for i in range(DEPTH)), "encoded", "decoder/block00"]
    if whole:
        names[: DEPTH + 1] = [f"encoder/{name}" for name in names[: DEPTH + 1]]
    for case, size in sizes.items():
        images = rng.standard_normal((2, *size, 3)).astype(np.float32)
        patches = size[0] * size[1] // PATCH**2
        chance = rng.random((2, patches)).astype(np.float32)
        if case == "low":
            _lower(model)
        seen.clear()
        with torch.no_grad():
            out = model(
                torch_images(images), noise=torch.from_numpy(chance),
                interpolate_pos_encoding=size != NATIVE,
            )  # fmt: skip
        arrays |= {f"{case}/images": images, f"{case}/noise": chance}
        arrays |= {f"{case}/{k}": x.copy() for k, x in zip(names, seen, strict=False)}
        arrays[f"{case}/hidden"] = out.mask.numpy()
        if whole:
            arrays[f"{case}/pixels"] = out.logits.numpy()
            arrays[f"{case}/loss"] = out.loss.numpy()
    for hook in hooks:
        hook.remove()
    return arrays


CASES = {"native": NATIVE, "other": OTHER, "low": NATIVE}


def pretraining(seed: int = 70) -> Arrays:
    import transformers as hf

    model = hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**TOWER, **DECODER, **MASKED, **EAGER)).eval()
    randomise(model, np.random.default_rng(seed))
    processor = hf.ViTImageProcessor(size={"height": SIDE, "width": SIDE}, resample=3)
    arrays = _saved(model, processor, {}) | {"positions": _positions(model.decoder)}
    return arrays | _outputs(model, seed, CASES)


def _positions(decoder) -> np.ndarray:
    """(1, 1 + FEWER, width): OTHER has as many patches as NATIVE, which resamples nothing."""
    import torch

    with torch.no_grad():
        return decoder.interpolate_pos_encoding(torch.zeros(1, 1 + FEWER, WIDTH)).numpy()


def own_units(seed: int = 71) -> Arrays:
    """Pixels in units of each patch's own spread."""
    import transformers as hf

    about = hf.ViTMAEConfig(**TOWER, **DECODER, norm_pix_loss=True, **MASKED, **EAGER)
    model = hf.ViTMAEForPreTraining(about).eval()
    randomise(model, np.random.default_rng(seed))
    return _saved(model, None, {}) | _outputs(model, seed, {"native": NATIVE})


def encoder(seed: int = 72) -> Arrays:
    import transformers as hf

    model = hf.ViTMAEModel(hf.ViTMAEConfig(**TOWER, **MASKED, **EAGER)).eval()
    randomise(model, np.random.default_rng(seed))
    return _saved(model, None, {}) | _outputs(model, seed, CASES)


def own_files(seed: int = 73) -> Arrays:
    """MAE's names by hand, through transformers' model by the map of its conversion script."""
    import torch
    import transformers as hf

    width, depth = DECODER["decoder_hidden_size"], DECODER["decoder_num_hidden_layers"]
    hidden, patches = DECODER["decoder_intermediate_size"], (SIDE // PATCH) ** 2
    sizes = {WIDTH: width, 3 * WIDTH: 3 * width, MLP: hidden}
    block = {k: tuple(sizes[n] for n in shape) for k, shape in (BLOCK | PLAIN).items()}
    names = names_of(BLOCK | PLAIN) | {
        "mask_token": (1, 1, width), "decoder_pos_embed": (1, 1 + patches, width),
        "decoder_embed.weight": (width, WIDTH), "decoder_embed.bias": (width,),
        **{f"decoder_blocks.{i}.{k}": s for i in range(depth) for k, s in block.items()},
        "decoder_norm.weight": (width,), "decoder_norm.bias": (width,),
        "decoder_pred.weight": (3 * PATCH**2, width), "decoder_pred.bias": (3 * PATCH**2,),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    file = {name: noise(name, shape, rng) for name, shape in names.items()}
    model = hf.ViTMAEForPreTraining(
        hf.ViTMAEConfig(
            **TOWER, **DECODER, **MASKED, layer_norm_eps=1e-6, norm_pix_loss=True, **EAGER
        )
    )
    state = {k: torch.from_numpy(x) for k, x in _in_memory(file).items()}
    model.eval().load_state_dict(state, strict=True)
    cases = {"native": NATIVE, "low": NATIVE}
    found = {f"pth/{name}": x for name, x in file.items()} | _outputs(model, seed, cases)
    return found | {"through": np.array("transformers' model")}


_RENAMED = {
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "norm": "vit.layernorm",
}


def _in_memory(file: Arrays) -> Arrays:
    """MAE's names as transformers 5 has them in memory."""
    found = {}
    for name, x in file.items():
        owner, _, last = name.rpartition(".")
        if name in _RENAMED:
            found[_RENAMED[name]] = x
        elif owner in _RENAMED:
            found[f"{_RENAMED[owner]}.{last}"] = x
        elif "blocks." not in name:
            found[f"decoder.{name}"] = x
        else:
            found |= _block_in_memory(name, x)
    return found


def _block_in_memory(name: str, x: np.ndarray) -> Arrays:
    stack, i, rest = name.split(".", 2)
    at = f"vit.layers.{i}" if stack == "blocks" else f"decoder.decoder_layers.{i}"
    if rest.startswith("attn.qkv."):
        parts = zip("qkv", np.split(x, 3), strict=True)
        return {f"{at}.attention.{k}_proj.{rest[9:]}": np.ascontiguousarray(y) for k, y in parts}
    for old, new in (("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
                     ("attn.proj", "attention.o_proj")):  # fmt: skip
        rest = rest.replace(old, new)
    return {f"{at}.{rest}": x}


RECORDS = {
    "L21-pretraining": pretraining,
    "L21-own-units": own_units,
    "L21-encoder": encoder,
    "L22-mae": own_files,
}
