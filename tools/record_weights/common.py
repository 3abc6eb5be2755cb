"""What all recordings share: random weights at a realistic scale, inputs, and their origin."""

import ast
import hashlib
import importlib.metadata
import pathlib
import re
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
GOLDENS = HERE.parents[1] / "tests" / "weights" / "goldens"
LIBRARIES = ("torch", "transformers", "timm", "open_clip_torch", "safetensors")
SIDE, OTHER, PATCH = 16, (8, 32), 4
"""Pixels of the native, square images, (height, width) of the others, and of a patch. Both have as
many patches, and texts as many tokens, so that the tests compile each operation once."""
WIDTH, DEPTH, HEADS, MLP, CLASSES = 32, 2, 4, 64, 7
TEXT_WIDTH, TEXT_HEADS, VOCABULARY, LENGTH, FEATURES = 32, 4, 40, 17, 20

Arrays = dict[str, np.ndarray]


def origin(script: str) -> Arrays:
    """What made a file: the module of this folder, and the libraries."""
    versions = {f"origin/{x}": np.array(importlib.metadata.version(x)) for x in LIBRARIES}
    return {
        "origin/script": np.array(script),
        "origin/script_sha256": np.array(script_hash(script)),
        **versions,
    }


def script_hash(script: str) -> str:
    """SHA-256 of a module of this folder, and of those of this folder that it imports."""
    digest, found, open_ = hashlib.sha256(), set(), [script]
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += _imported(HERE / f"{name}.py")
    for name in sorted(found):
        digest.update(name.encode() + b"\0" + (HERE / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _imported(file: pathlib.Path) -> list[str]:
    nodes = [x for x in ast.walk(ast.parse(file.read_text())) if isinstance(x, ast.ImportFrom)]
    return [x.module for x in nodes if x.module and (HERE / f"{x.module}.py").is_file()]


def images(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Normalised images of both sizes, (2, H, W, 3)."""
    return {"native": normal_images(rng, (SIDE, SIDE)), "other": normal_images(rng, OTHER)}


def normal_images(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal((2, *size, 3)).astype(np.float32)


def tokens(rng: np.random.Generator, end: bool, pad: int = 0) -> np.ndarray:
    """Texts of several lengths; with `end` the largest id follows each."""
    found = rng.integers(1, VOCABULARY - 1, (2, LENGTH))
    for row, at in enumerate((5, LENGTH - 1)):
        if end:
            found[row, at] = VOCABULARY - 1
            found[row, at + 1 :] = pad
    return found.astype(np.int32)


def open_torchvision() -> None:
    """Imports torchvision, which the other libraries want, beside a torch for CPUs, too.

    Its wheels are made for CUDA: beside a CPU torch their operators are not there, and it stops at
    two that it only describes. None of them is used here.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision  # noqa: F401


_KEPT: list = []  # what torch forgets when it is collected


def torch_images(x: np.ndarray):
    import torch

    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def files_of(folder: pathlib.Path) -> Arrays:
    """All files of a folder, as bytes: file/NAME."""
    return {
        f"file/{path.name}": np.frombuffer(path.read_bytes(), np.uint8)
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


FIRST = ("fc1", "c_fc", "w12", "weights_in", "Dense_0")
LAST = ("fc2", "c_proj", "w3", "weights_out", "Dense_1")
"""Names of an MLP's linear maps."""


def noise(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Norm scales near 1, kernels that keep the variance, all else about 0.3.

    What enters an MLP's activation lies around -2, as it mostly does after training: there the
    forms of GELU differ most against their values. The map behind it makes up for their smallness.
    Logit scales are near CLIP's; the running variances of batch norms are positive.
    """
    x = rng.standard_normal(shape)
    parts = name.replace("/", ".").split(".")
    owner, last = (parts[-2] if len(parts) > 1 else ""), parts[-1]
    if "logit_scale" in name or name in ("t", "params/t"):
        return np.asarray(2.6 + 0.3 * x, np.float32)
    if last == "running_var":
        return np.exp(0.3 * x).astype(np.float32)
    norm = "norm" in owner or owner.startswith(("bn", "ln"))
    if (norm and last == "weight") or last in ("gamma", "lambda1", "scale"):
        return np.asarray(1 + 0.3 * x, np.float32)
    if owner.startswith("bn") and last == "bias":
        return np.asarray(0.7 + 0.3 * x, np.float32)
    inner = owner == "dense" and "attention" not in name
    first = owner in FIRST or (inner and "intermediate" in name)
    if first and last == "bias":
        return np.asarray(-2 + 0.3 * x, np.float32)
    if len(shape) > 1 and last in ("weight", "kernel", "in_proj_weight") and "emb" not in owner:
        inputs = np.prod(shape[1:] if last != "kernel" else shape[:-1])
        gain = 8 if owner in LAST or (inner and ".output." in name) else 1
        return np.asarray(gain * x / np.sqrt(inputs), np.float32)
    return np.asarray(0.3 * x, np.float32)


EMBEDDINGS = re.compile(
    r".*(patch_embed|embeddings?\b|cls_token|cls_emb|class_embedding|pos_embed|positional|dist_token|"
    r"distillation_token|reg_token|register_tokens|visual\.conv1).*"
)
"""Parameters from which the tokens are made that enter the first norm."""
LOW = {1e-12: 2.0**-17, 1e-6: 2.0**-10, 1e-5: 2.0**-8}
"""Factor on them that brings the first norm's variance near its epsilon."""


def lower_variance(model) -> None:
    """Scales the embeddings in place: only so does the value of epsilon show."""
    import torch

    norms = (x for x in model.modules() if isinstance(x, torch.nn.LayerNorm))
    factor = LOW[next(norms).eps]
    resnet = any(isinstance(x, torch.nn.BatchNorm2d) for x in model.modules())
    with torch.no_grad():
        for name, x in model.named_parameters():
            out = "mask_token" in name or (resnet and name.startswith("visual."))
            if EMBEDDINGS.fullmatch(name) and not out:
                x.mul_(factor)


def randomise(model, rng: np.random.Generator) -> None:
    """Every parameter and every float buffer that is saved."""
    import torch

    saved = set(model.state_dict())
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if name in saved and x.is_floating_point():
                x.copy_(torch.from_numpy(noise(name, tuple(x.shape), rng)))
