"""Tiny models of timm, saved as it saves them, and files of other houses through its loaders."""

import json
import pathlib
import tempfile

import numpy as np
from common import (
    CLASSES,
    DEPTH,
    HEADS,
    MLP,
    OTHER,
    PATCH,
    SIDE,
    WIDTH,
    Arrays,
    files_of,
    images,
    lower_variance,
    noise,
    randomise,
    torch_images,
)

TOWER = {
    "img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS,
    "mlp_ratio": MLP / WIDTH, "num_classes": CLASSES,
}  # fmt: skip


def _model(architecture: str, **args):
    import timm

    return timm.create_model(architecture, **(TOWER | {"dynamic_img_size": True} | args)).eval()


def outputs(model, seed: int, cases=("native", "other", "low")) -> Arrays:
    """Every block, and the logits. Case "low" comes last: it changes the model."""
    import torch

    arrays, seen = {}, []
    hooks = [block.register_forward_hook(lambda *x: seen.append(x[-1])) for block in model.blocks]
    inputs = images(np.random.default_rng(seed))
    for case, x in (inputs | {"low": inputs["native"]}).items():
        if case in cases:
            seen.clear()
            if case == "low":
                lower_variance(model)
            with torch.no_grad():
                arrays[f"{case}/logits"] = model(torch_images(x)).numpy()
            arrays[f"{case}/images"] = x
            arrays |= {f"{case}/block{i:02d}": y.numpy().copy() for i, y in enumerate(seen)}
    for hook in hooks:
        hook.remove()
    return arrays


def _own(architecture: str, seed: int, **args) -> Arrays:
    """A model saved by timm for the hub."""
    from timm.models import save_for_hf

    model = _model(architecture, **args)
    randomise(model, np.random.default_rng(seed))
    saved = {k: x for k, x in (TOWER | args).items() if k != "num_classes"}
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, model_args=saved, safe_serialization=True)
        file = pathlib.Path(folder) / "config.json"
        about = json.loads(file.read_text())
        about["pretrained_cfg"]["input_size"] = [3, SIDE, SIDE]
        file.write_text(json.dumps(about))
        return files_of(pathlib.Path(folder)) | outputs(model, seed)


def vit(seed: int = 20) -> Arrays:
    return _own("vit_base_patch16_224", seed)


def clip_tower(seed: int = 21) -> Arrays:
    return _own("vit_base_patch16_clip_quickgelu_224", seed)


def siglip_tower(seed: int = 22) -> Arrays:
    return _own("vit_so400m_patch16_siglip_256", seed, num_classes=0)


def mean_pooled(seed: int = 23) -> Arrays:
    return _own("vit_medium_patch16_reg4_gap_256", seed, reg_tokens=3)


def distilled(seed: int = 24) -> Arrays:
    return _own("deit_base_distilled_patch16_224", seed)


def deit3(seed: int = 25) -> Arrays:
    return _own("deit3_base_patch16_224", seed)


def dinov2_with_registers(seed: int = 26) -> Arrays:
    return _own("vit_base_patch14_reg4_dinov2", seed, reg_tokens=3, num_classes=0)


def gated(seed: int = 27) -> Arrays:
    return _own("vit_giant_patch14_dinov2", seed, mlp_ratio=3, num_classes=0)


# Files of houses whose code is on no package index: names by hand, outputs through timm's loaders.

BLOCK = {
    "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,),
    "norm2.bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
    "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
}  # fmt: skip
PLAIN = {
    "mlp.fc1.weight": (MLP, WIDTH), "mlp.fc1.bias": (MLP,), "mlp.fc2.weight": (WIDTH, MLP),
    "mlp.fc2.bias": (WIDTH,),
}  # fmt: skip
GATED = {
    "mlp.w12.weight": (2 * MLP, WIDTH), "mlp.w12.bias": (2 * MLP,),
    "mlp.w3.weight": (WIDTH, MLP), "mlp.w3.bias": (WIDTH,),
}  # fmt: skip
SCALES = {"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)}


def names_of(block: dict, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    patches = (SIDE // PATCH) ** 2
    return {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + patches, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        **{f"blocks.{i}.{k}": shape for i in range(DEPTH) for k, shape in block.items()},
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,), **more,
    }  # fmt: skip


def random_file(names: dict, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: noise(name, shape, rng) for name, shape in names.items()}


def through_timm(
    file: Arrays, architecture: str, seed: int, offset: float | None, **args
) -> Arrays:
    """Outputs of a timm model that loaded the file as timm loads it.

    Args:
        offset: for the other size positions are resampled as the house does it, by bicubic without
            antialiasing, of a scale with this added to the new size; None: as timm does.
        args: of the model.
    """
    import torch
    from timm.models.vision_transformer import checkpoint_filter_fn

    model = _model(architecture, **args)
    state = checkpoint_filter_fn({k: torch.from_numpy(x) for k, x in file.items()}, model)
    model.load_state_dict(state, strict=True)
    if offset is None:
        return outputs(model, seed)
    other = _model(architecture, **args, img_size=OTHER, dynamic_img_size=False)
    table = _resampled(model.pos_embed.detach(), offset)
    other.load_state_dict(model.state_dict() | {"pos_embed": table}, strict=True)
    arrays = outputs(other, seed, cases=("other",))
    return arrays | outputs(model, seed, cases=("native", "low"))


def _resampled(table, offset: float):
    import torch

    grid, new = SIDE // PATCH, tuple(n // PATCH for n in OTHER)
    first = table.shape[1] - grid**2
    planes = table[:, first:].reshape(1, grid, grid, WIDTH).permute(0, 3, 1, 2)
    factors = tuple((n + offset) / grid for n in new)
    size = {"scale_factor": factors} if offset else {"size": new}
    planes = torch.nn.functional.interpolate(planes, mode="bicubic", **size)
    assert planes.shape[2:] == new
    return torch.cat([table[:, :first], planes.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)], dim=1)


def pth(file: Arrays) -> Arrays:
    return {f"pth/{name}": x for name, x in file.items()}


def dinov2_hub(seed: int = 28) -> Arrays:
    file = random_file(names_of(BLOCK | PLAIN | SCALES, mask_token=(1, WIDTH)), seed)
    return pth(file) | through_timm(file, "vit_base_patch14_dinov2", seed, 0.1, num_classes=0)


def dinov2_hub_gated(seed: int = 29) -> Arrays:
    file = random_file(names_of(BLOCK | GATED | SCALES, mask_token=(1, WIDTH)), seed)
    args = {"num_classes": 0, "mlp_ratio": 2 * MLP / WIDTH}
    return pth(file) | through_timm(file, "vit_giant_patch14_dinov2", seed, 0.1, **args)


def dinov2_hub_registers(seed: int = 30) -> Arrays:
    more = {"mask_token": (1, WIDTH), "register_tokens": (1, 3, WIDTH)}
    file = random_file(names_of(BLOCK | PLAIN | SCALES, **more), seed)
    args = {"num_classes": 0, "reg_tokens": 3}
    return pth(file) | through_timm(file, "vit_base_patch14_reg4_dinov2", seed, None, **args)


def dino(seed: int = 31) -> Arrays:
    file = random_file(names_of(BLOCK | PLAIN), seed)
    return pth(file) | through_timm(file, "vit_base_patch16_224", seed, 0.1, num_classes=0)


def mae(seed: int = 32) -> Arrays:
    """A fine-tuned classifier: the norm comes after the mean over patches."""
    names = names_of(BLOCK | PLAIN, **{"head.weight": (CLASSES, WIDTH), "head.bias": (CLASSES,)})
    names |= {"fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,)}
    file = random_file({k: x for k, x in names.items() if not k.startswith("norm.")}, seed)
    args = {"global_pool": "avg", "fc_norm": True, "class_token": True}
    return pth(file) | through_timm(file, "vit_base_patch16_224", seed, 0.0, **args)


def deit(seed: int = 33) -> Arrays:
    patches = (SIDE // PATCH) ** 2
    head = {f"{k}.{x}": s for k in ("head", "head_dist") for x, s in
            (("weight", (CLASSES, WIDTH)), ("bias", (CLASSES,)))}  # fmt: skip
    names = names_of(BLOCK | PLAIN, dist_token=(1, 1, WIDTH), **head)
    names["pos_embed"] = (1, 2 + patches, WIDTH)
    file = random_file(names, seed)
    return pth(file) | through_timm(file, "deit_base_distilled_patch16_224", seed, 0.0)


RECORDS = {
    "L15-vit": vit,
    "L15-clip": clip_tower,
    "L15-siglip": siglip_tower,
    "L15-mean": mean_pooled,
    "L16-distilled": distilled,
    "L15-deit3": deit3,
    "L15-dinov2-registers": dinov2_with_registers,
    "L15-dinov2-gated": gated,
    "L17-dinov2": dinov2_hub,
    "L17-gated": dinov2_hub_gated,
    "L17-registers": dinov2_hub_registers,
    "L18-mae": mae,
    "L19-dino": dino,
    "L20-deit": deit,
}
