"""Hybrids, a ResNet before the blocks: vision_transformer's .npz by timm's loader, and timm's own.

timm computes with another epsilon than vision_transformer does (models_resnet.py there): 1e-5 in
group norms, where flax has 1e-6, and 1e-8 beside the variance of a kernel, where it is 1e-5 beside
the deviation. For the .npz a timm model is brought to the former.
"""

import functools
import json
import pathlib
import re
import tempfile

import numpy as np
from common import (
    CLASSES,
    DEPTH,
    EMBEDDINGS,
    HEADS,
    LOW,
    MLP,
    OTHER,
    PATCH,
    SIDE,
    WIDTH,
    Arrays,
    files_of,
    normal_images,
    randomise,
    torch_images,
)
from npz_models import AUGREG, _dense, _draw, _image, _norm, _zoomed

STAGES, STEM = (2, 1), 32
SCALE = 2
"""Images are so much larger than those of other models: 8 pixels become one patch, not 4."""
DIM = 2.0**-8
"""Factor on images that brings the first group norm's variance near its epsilon."""
TABLE = "Transformer/posembed_input/pos_embedding"
BACKBONE = re.compile(r".*(backbone\.|conv_root|block\d/unit).*")


def _spread(name: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolutions of the ResNet whose outputs have kernels of different scales, down to where the
    epsilon beside their deviation counts."""
    if not BACKBONE.fullmatch(name) or x.ndim != 4:
        return x
    axis = 0 if name.endswith(".weight") else -1
    shape = [1] * 4
    shape[axis] = x.shape[axis]
    return (x * 10 ** rng.uniform(-3, 0, shape)).astype(np.float32)


def _unit(at: str, inputs: int, width: int, project: bool) -> dict:
    found = {
        f"{at}/conv1/kernel": (1, 1, inputs, width), **_norm(f"{at}/gn1", width),
        f"{at}/conv2/kernel": (3, 3, width, width), **_norm(f"{at}/gn2", width),
        f"{at}/conv3/kernel": (1, 1, width, 4 * width), **_norm(f"{at}/gn3", 4 * width),
    }  # fmt: skip
    if project:
        found[f"{at}/conv_proj/kernel"] = (1, 1, inputs, 4 * width)
        found |= _norm(f"{at}/gn_proj", 4 * width)
    return found


def _names(stages: tuple[int, ...], patch: int, stem: int) -> dict:
    names = _image("", "tok") | _dense("head", WIDTH, CLASSES)
    del names["pos_embedding"]
    names[TABLE] = (1, 1 + (SIDE // PATCH) ** 2, WIDTH)
    for old, new in AUGREG.items():
        names = {k.replace(f"/{old}/", f"/{new}/"): x for k, x in names.items()}
    names |= {"conv_root/kernel": (7, 7, 3, stem), **_norm("gn_root", stem)}
    inputs = stem
    for i, depth in enumerate(stages):
        for j in range(depth):
            width = stem * 2**i
            names |= _unit(f"block{i + 1}/unit{j + 1}", inputs, width, j == 0)
            inputs = 4 * width
    return names | {"embedding/kernel": (patch, patch, inputs, WIDTH)}


def _convolution():
    """timm's, but for the kernel, which is divided by its deviation + 1e-5."""
    import torch
    from timm.layers import StdConv2dSame
    from timm.layers.padding import pad_same

    class Convolution(StdConv2dSame):
        def forward(self, x):
            x = pad_same(x, self.kernel_size, self.stride)
            flat = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
            deviation = flat.std(dim=(1, 2, 3), keepdim=True, unbiased=False)
            return torch.nn.functional.conv2d(x, flat / (deviation + 1e-5), None, self.stride)

    return functools.partial(Convolution, padding=0)


def _hybrid(stages: tuple[int, ...], patch: int, size, width: int, convolution=None, **args):
    """A timm hybrid with a ResNet of few features."""
    from timm.layers import StdConv2dSame
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
    from timm.models.vision_transformer_hybrid import _create_vision_transformer_hybrid

    convolution = convolution or functools.partial(StdConv2dSame, eps=1e-8)
    shared = {"stem_type": "same", "preact": False, "conv_layer": convolution}
    if stages:
        channels = tuple(4 * width * 2**i for i in range(len(stages)))
        backbone = ResNetV2(
            stages, channels, num_classes=0, global_pool="", stem_chs=width, **shared
        )
    else:
        backbone = create_resnetv2_stem(3, width, **shared)
    sizes = {
        "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": MLP / WIDTH,
        "num_classes": CLASSES, "patch_size": patch, "img_size": size,
    }  # fmt: skip
    return _create_vision_transformer_hybrid(
        "vit_base_r50_s16_224", backbone=backbone, **sizes, **args
    ).eval()


def _outputs(model, seed: int, cases: tuple[str, ...]) -> Arrays:
    """The ResNet's maps, every block, what is pooled, and the logits. "low" changes the model."""
    import torch

    arrays, seen = {}, {}
    backbone = model.patch_embed.backbone
    stages = {f"stage{i + 1}": x for i, x in enumerate(getattr(backbone, "stages", ()))}
    blocks = {f"block{i:02d}": x for i, x in enumerate(model.blocks)}
    watched = {"root": getattr(backbone, "stem", backbone)} | stages | blocks
    hooks = [
        module.register_forward_hook(lambda *x, name=name: seen.update({name: x[-1]}))
        for name, module in watched.items()
    ]
    rng = np.random.default_rng(seed)
    sizes = {"native": (SIDE, SIDE), "other": OTHER}
    inputs = {k: normal_images(rng, tuple(SCALE * n for n in size)) for k, size in sizes.items()}
    for case, x in (inputs | {"low": DIM * inputs["native"]}).items():
        if case not in cases:
            continue
        if case == "low":
            _lower_embeddings(model)
        with torch.no_grad():
            features = model.forward_features(torch_images(x))
            arrays[f"{case}/logits"] = model.forward_head(features).numpy()
            arrays[f"{case}/pooled"] = model.forward_head(features, pre_logits=True).numpy()
        arrays[f"{case}/images"] = x
        for name, y in seen.items():
            y = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
            arrays[f"{case}/{name}"] = y.contiguous().numpy().copy()
    for hook in hooks:
        hook.remove()
    return arrays


def _lower_embeddings(model) -> None:
    """As common.lower_variance, but for the ResNet: what follows its norms does not shrink with its
    parameters."""
    import torch

    with torch.no_grad():
        for name, x in model.named_parameters():
            if EMBEDDINGS.fullmatch(name) and not BACKBONE.fullmatch(name):
                x.mul_(LOW[1e-6])


def _through_timm(stages: tuple[int, ...], patch: int, stem: int, seed: int) -> Arrays:
    import torch

    rng = np.random.default_rng(seed + 500)
    names = _names(stages, patch, stem)
    file = {k: _spread(k, x, rng) for k, x in _draw(names, seed).items()}
    arrays: Arrays = {}
    for case, size, held in (
        ("native", (SIDE, SIDE), file), ("other", OTHER, file | {TABLE: _zoomed(file[TABLE], 1)})
    ):  # fmt: skip
        sides = tuple(SCALE * n for n in size)
        model = _hybrid(stages, patch, sides, stem, _convolution(), act_layer="gelu_tanh")
        for module in model.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.eps = 1e-6
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "hybrid.npz"
            np.savez(path, **held)
            model.load_pretrained(str(path))
        arrays |= _outputs(model, seed, (case, "low") if case == "native" else (case,))
    return arrays | {f"npz/{name}": x for name, x in file.items()}


def augreg_hybrid(seed: int = 70) -> Arrays:
    return _through_timm(STAGES, 1, STEM, seed)


def augreg_root(seed: int = 71) -> Arrays:
    """The first convolution and the maximum alone, as R+Ti/16 has them."""
    return _through_timm((), 2, 64, seed)


def _own(model, architecture: str, args: dict, seed: int) -> Arrays:
    """A hybrid saved by timm for the hub."""
    import torch
    from timm.models import save_for_hf

    rng = np.random.default_rng(seed)
    randomise(model, rng)
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.copy_(torch.from_numpy(_spread(name, x.numpy(), rng)))
    model.pretrained_cfg["architecture"] = architecture
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, model_args=args, safe_serialization=True)
        file = pathlib.Path(folder) / "config.json"
        about = json.loads(file.read_text())
        about["pretrained_cfg"]["input_size"] = [3, SCALE * SIDE, SCALE * SIDE]
        file.write_text(json.dumps(about))
        return files_of(pathlib.Path(folder)) | _outputs(model, seed, ("native", "other", "low"))


def timm_hybrid(seed: int = 72) -> Arrays:
    """Of an architecture whose ResNet timm has with other numbers of blocks, but as it computes."""
    model = _hybrid(STAGES, 1, SCALE * SIDE, STEM, dynamic_img_size=True)
    args = {"embed_dim": WIDTH, "num_heads": HEADS, "img_size": SCALE * SIDE}
    return _own(model, "vit_base_r50_s16_224", args, seed)


def timm_root(seed: int = 73) -> Arrays:
    """As timm makes it by its name, with fewer features behind the ResNet."""
    import timm

    args = {
        "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": MLP / WIDTH,
        "patch_size": 2, "img_size": SCALE * SIDE,
    }  # fmt: skip
    name = "vit_tiny_r_s16_p8_224"
    model = timm.create_model(name, **args, num_classes=CLASSES, dynamic_img_size=True).eval()
    return _own(model, name, args, seed)


RECORDS = {
    "L01-hybrid": augreg_hybrid,
    "L01-root": augreg_root,
    "L15-hybrid": timm_hybrid,
    "L15-root": timm_root,
}
