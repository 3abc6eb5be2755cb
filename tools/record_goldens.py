"""Records what transformers and torch compute, for the tests to compare with without them.

    python tools/record_goldens.py                 # writes tests/models/goldens/*.npz

Needs torch, transformers and safetensors, which are no requirements of this package. Every file
holds the versions it was made with and the SHA-256 of this script; a test fails when they part.
Weights are random in every leaf at a realistic scale, and keep the names of published files: models
go through `save_pretrained`, since transformers 5 renames parameters in memory.
"""

import argparse
import hashlib
import pathlib
import tempfile

import numpy as np

GOLDENS = pathlib.Path(__file__).parent.parent / "tests" / "models" / "goldens"
LOW_VARIANCE = 2.0**-17
"""Factor on the embeddings that brings the first norm's variance near its epsilon of 1e-12."""
SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 4}
CLASSES = 7

RESAMPLED = {"up": ((5, 5), (8, 8)), "down": ((9, 9), (4, 4)), "oblong": ((6, 6), (4, 11))}
"""Position tables: grids before and after."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    records = {"vit": record_vit, "families": record_families, "positions": record_positions}
    for name, record in records.items():
        np.savez_compressed(out / f"{name}.npz", **record(), **origin())
        print(f"{out / name}.npz: {(out / f'{name}.npz').stat().st_size} bytes")


def origin() -> dict[str, np.ndarray]:
    """What made a file."""
    import torch
    import transformers

    return {
        "origin/script_sha256": np.array(script_hash()),
        "origin/torch": np.array(torch.__version__),
        "origin/transformers": np.array(transformers.__version__),
    }


def script_hash() -> str:
    """SHA-256 of this file."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


def record_vit() -> dict[str, np.ndarray]:
    """ViTForImageClassification, and ViTModel with its pooler on the same weights.

    Keys: file/NAME are weights; CASE/images, CASE/NAME are inputs and outputs; gradient/NAME is the
    gradient of the sum of logits * gradient/cotangent in case "square". Cases: square; oblong, a
    larger and not square image; low_variance, embeddings times LOW_VARIANCE.
    """
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    config = ViTConfig(
        **SHAPE, intermediate_size=64, image_size=16, num_labels=CLASSES, hidden_act="gelu",
        layer_norm_eps=1e-12, attn_implementation="eager",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    classifier = ViTForImageClassification(config).eval()
    pooler = ViTModel(config, add_pooling_layer=True).eval()
    _randomise(pooler, rng)
    _randomise(classifier, rng)
    pooler.load_state_dict(classifier.vit.state_dict(), strict=False)
    files = {f"vit.{name}": x for name, x in _saved(pooler).items()} | _saved(classifier)
    arrays = {f"file/{name}": x for name, x in files.items()}

    images = {
        "square": rng.standard_normal((2, 16, 16, 3)).astype(np.float32),
        "oblong": rng.standard_normal((2, 24, 20, 3)).astype(np.float32),
    }
    images["low_variance"] = images["square"]
    cotangent = rng.standard_normal((2, CLASSES)).astype(np.float32)
    for case, x in images.items():
        if case == "low_variance":
            with torch.no_grad():
                for parameter in classifier.vit.embeddings.parameters():
                    parameter.mul_(LOW_VARIANCE)
            pooler.load_state_dict(classifier.vit.state_dict(), strict=False)
        pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
        options = {"interpolate_pos_encoding": True, "output_hidden_states": True}
        out = classifier(pixels, output_attentions=True, **options)
        encoded = pooler(pixels, **options)
        arrays[f"{case}/images"] = x
        arrays[f"{case}/logits"] = out.logits
        arrays[f"{case}/encoded"] = encoded.last_hidden_state
        arrays[f"{case}/pooled"] = encoded.pooler_output
        for i, hidden in enumerate(out.hidden_states):
            arrays[f"{case}/{'tokens' if i == 0 else f'block{i - 1:02d}'}"] = hidden
        if case == "square":
            arrays[f"{case}/attention00"] = out.attentions[0]
            (out.logits * torch.from_numpy(cotangent)).sum().backward()
            arrays |= _gradients(classifier)
    arrays["gradient/cotangent"] = cotangent
    return {
        name: np.asarray(x.detach() if hasattr(x, "detach") else x) for name, x in arrays.items()
    }


def record_families() -> dict[str, np.ndarray]:
    """Towers that differ from ViT: SigLIP's, CLIP's, and DINOv2 with registers, tiny.

    Keys: FAMILY/file/NAME, FAMILY/images, FAMILY/output. SigLIP: attention pooling, tanh, no class
    token. CLIP: norm before the blocks, quick GELU, no patch bias. DINOv2: LayerScale, registers,
    and a table resampled with antialiasing; its output is all tokens, the others' the pooled one.
    """
    import torch
    import transformers as hf

    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
    towers = {
        "siglip": hf.SiglipVisionModel(
            hf.SiglipVisionConfig(**common, intermediate_size=24, image_size=12)
        ),
        "clip": hf.CLIPVisionModel(
            hf.CLIPVisionConfig(**common, intermediate_size=24, image_size=12)
        ),
        "dinov2": hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(
                **common, mlp_ratio=2, image_size=12, num_register_tokens=3
            )
        ),
    }
    rng = np.random.default_rng(2)
    arrays = {}
    for family, tower in towers.items():
        _randomise(tower.eval(), rng)
        sides = (16, 8) if family == "dinov2" else (12, 12)
        images = rng.standard_normal((2, *sides, 3)).astype(np.float32)
        with torch.no_grad():
            out = tower(torch.from_numpy(images).permute(0, 3, 1, 2))
        arrays |= {f"{family}/file/{name}": x for name, x in _saved(tower).items()}
        arrays[f"{family}/images"] = images
        output = out.last_hidden_state if family == "dinov2" else out.pooler_output
        arrays[f"{family}/output"] = output.numpy()
    return arrays


def record_positions() -> dict[str, np.ndarray]:
    """torch's interpolation of random tables, in its variants: CASE/RULE, from CASE/table."""
    import torch

    rng = np.random.default_rng(1)
    arrays = {}
    for case, (old, new) in RESAMPLED.items():
        table = rng.standard_normal((*old, 3)).astype(np.float32)
        arrays[f"{case}/table"] = table
        planes = torch.from_numpy(table).permute(2, 0, 1)[None]
        rules = {
            "cubic": {"mode": "bicubic", "antialias": True, "size": new},
            "cubic_torch": {"mode": "bicubic", "size": new},
            "bilinear": {"mode": "bilinear", "size": new},
        }
        for rule in ("cubic", "cubic_torch"):
            scale = [(n + 0.1) / m for m, n in zip(old, new, strict=True)]
            offset = {k: v for k, v in rules[rule].items() if k != "size"}
            rules[f"{rule}+0.1"] = offset | {"scale_factor": scale}
        for rule, options in rules.items():
            y = torch.nn.functional.interpolate(planes, **options, align_corners=False)
            arrays[f"{case}/{rule}"] = y[0].permute(1, 2, 0).numpy()
            assert arrays[f"{case}/{rule}"].shape == (*new, 3)
    return arrays


def _randomise(model, rng: np.random.Generator) -> None:
    """Every leaf: norm scales near 1, kernels that keep the variance, all else about 0.3.

    The MLP's kernels are twice that, as after training: its inputs reach where the forms of GELU
    differ most, near 2, and its share of the tokens is large.
    """
    import torch

    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        noise = rng.standard_normal(shape)
        if "norm" in name and name.endswith("weight"):
            noise = 1 + 0.3 * noise
        elif len(shape) > 1 and name.endswith("weight"):
            gain = 2 if "mlp" in name else 1
            noise = gain * noise / np.sqrt(np.prod(shape[1:]))
        else:
            noise = 0.3 * noise
        parameter.data = torch.from_numpy(noise.astype(np.float32))


def _saved(model) -> dict[str, np.ndarray]:
    """The weights under the names of published files."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def _gradients(model) -> dict[str, np.ndarray]:
    """Gradients under the names of published files, by saving them in place of the weights."""
    import copy

    carrier = copy.deepcopy(model)
    for parameter, source in zip(carrier.parameters(), model.parameters(), strict=True):
        parameter.data = source.grad.clone()
    return {f"gradient/{name}": x for name, x in _saved(carrier).items()}


if __name__ == "__main__":
    main()
