"""Records what transformers and open_clip compute with CLIP, SigLIP, CLIP's ResNets and CoCa.

    python tools/record_clip_goldens.py            # writes tests/models/goldens/*.npz

Needs torch, transformers, safetensors and open_clip_torch, which are no requirements of this
package; torchvision is not needed. Every file holds the versions it was made with and the SHA-256
of this script; a test fails when they part. Models are tiny and their weights random in every leaf
at a realistic scale; files hold them under the names of published ones.
"""

import argparse
import hashlib
import importlib
import importlib.util
import pathlib
import sys
import types

import numpy as np

GOLDENS = pathlib.Path(__file__).parent.parent / "tests" / "models" / "goldens"
LOW_VARIANCE = 2.0**-8
"""Factor on the embeddings that brings the first norms' variance near their epsilon of 1e-5."""
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4}
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
MLP = {"intermediate_size": 48}
SIDE, VOCABULARY, LENGTH, EMBEDDING, END = 12, 40, 9, 20, 17
RESNET = {"layers": [1, 2, 1, 1], "width": 2, "heads": 4, "image_size": 64, "output_dim": 12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    records = {
        "clip": record_clip,
        "siglip": record_siglip,
        "resnet": record_resnet,
        "coca": record_coca,
    }
    for name, record in records.items():
        np.savez_compressed(out / f"{name}.npz", **record(), **origin())
        print(f"{out / name}.npz: {(out / f'{name}.npz').stat().st_size} bytes")


def origin() -> dict[str, np.ndarray]:
    """What made a file."""
    import importlib.metadata

    versions = {
        f"origin/{name}": np.array(importlib.metadata.version(name))
        for name in ("torch", "transformers", "open_clip_torch")
    }
    return {"origin/script_sha256": np.array(script_hash()), **versions}


def script_hash() -> str:
    """SHA-256 of this file."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


def record_clip(seed: int = 0) -> dict[str, np.ndarray]:
    """CLIPModel, quick GELU, epsilon 1e-5.

    Keys: file/NAME are weights; CASE/images, CASE/tokens, CASE/img/NAME, CASE/txt/NAME and
    CASE/logits are inputs and outputs. Cases: plain, texts end in the largest id; low_variance,
    embeddings times LOW_VARIANCE; first_end, texts hold END twice and larger ids elsewhere.
    """
    import torch
    import transformers as hf

    def model(end: int):
        # transformers takes the largest id where the configuration says 2, its old default.
        return hf.CLIPModel(
            hf.CLIPConfig(
                vision_config={**VISION, **MLP, "image_size": SIDE},
                text_config={
                    **TEXT, **MLP, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH,
                    "eos_token_id": end, "bos_token_id": 0, "pad_token_id": 1,
                },
                projection_dim=EMBEDDING,
                attn_implementation="eager",
            )
        ).eval()  # fmt: skip

    rng = np.random.default_rng(seed)
    largest, first = model(2), model(END)
    randomise(largest, rng)
    first.load_state_dict(largest.state_dict())
    arrays = _file(largest)
    images, tokens = _inputs(rng)
    ended = tokens.copy()
    for row, at in enumerate((6, 3, 8, 1)):
        ended[row, at:] = 0
        ended[row, at] = VOCABULARY - 1
    twice = np.minimum(tokens, VOCABULARY - 2)
    twice[twice == END] += 1
    for row, at in enumerate((4, 2, 5, 0)):
        twice[row, [at, at + 2]] = END
    arrays |= _run("plain", largest, images, ended)
    arrays |= _run("first_end", first, images, twice)
    with torch.no_grad():
        for tower in (largest.vision_model, largest.text_model):
            for parameter in tower.embeddings.parameters():
                parameter.mul_(LOW_VARIANCE)
    arrays |= _run("low_variance", largest, images, ended)
    return arrays


def record_siglip(seed: int = 1) -> dict[str, np.ndarray]:
    """SiglipModel: the same keys, cases plain and low_variance (its epsilon is 1e-6)."""
    import torch
    import transformers as hf

    model = hf.SiglipModel(
        hf.SiglipConfig(
            vision_config={**VISION, **MLP, "image_size": SIDE},
            text_config={
                **TEXT, **MLP, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH,
                "projection_size": VISION["hidden_size"], "bos_token_id": 0, "eos_token_id": 1,
            },
            attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    rng = np.random.default_rng(seed)
    randomise(model, rng)
    arrays = _file(model)
    images, tokens = _inputs(rng)
    arrays |= _run("plain", model, images, tokens)
    with torch.no_grad():
        for tower in (model.vision_model, model.text_model):
            for parameter in tower.embeddings.parameters():
                parameter.mul_(LOW_VARIANCE / 4)
    arrays |= _run("low_variance", model, images, tokens)
    return arrays


def _inputs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    images = rng.standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)
    return images, rng.integers(2, VOCABULARY - 1, (4, LENGTH), np.int32)


def _run(case: str, model, images: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    with torch.no_grad():
        out = model(
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
            input_ids=torch.from_numpy(tokens).long(),
            output_hidden_states=True,
        )
    arrays = {"images": images, "tokens": tokens, "logits": out.logits_per_image.numpy()}
    arrays |= {"img/features": out.image_embeds.numpy(), "txt/features": out.text_embeds.numpy()}
    for tower, seen in (("img", out.vision_model_output), ("txt", out.text_model_output)):
        for i, hidden in enumerate(seen.hidden_states[1:]):
            arrays[f"{tower}/block{i:02d}"] = hidden.numpy()
    return {f"{case}/{name}": np.asarray(x) for name, x in arrays.items()}


def record_resnet(seed: int = 2) -> dict[str, np.ndarray]:
    """open_clip's ModifiedResNet: file/NAME, images, NAME; training/NAME with batch statistics.

    new/NAME are the running statistics after that one step of training.
    """
    import torch

    resnet = import_open_clip("modified_resnet").ModifiedResNet(**RESNET).eval()
    rng = np.random.default_rng(seed)
    randomise(resnet, rng)
    for name, buffer in resnet.named_buffers():
        noise = torch.from_numpy(rng.standard_normal(tuple(buffer.shape)).astype(np.float32))
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * noise)
        elif name.endswith("running_var"):
            buffer.copy_(torch.exp(0.3 * noise))
    arrays = _file(resnet)
    side = RESNET["image_size"]
    images = rng.standard_normal((2, side, side, 3)).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    arrays["images"] = images

    def run(prefix: str) -> None:
        with torch.no_grad():
            x = resnet.stem(pixels)
            arrays[f"{prefix}stem"] = x.permute(0, 2, 3, 1).numpy()
            for i in range(4):
                x = getattr(resnet, f"layer{i + 1}")(x)
                arrays[f"{prefix}stage{i}"] = x.permute(0, 2, 3, 1).numpy()
            arrays[f"{prefix}features"] = resnet.attnpool(x).numpy()

    run("")
    resnet.train()
    run("training/")
    buffers = {name: x.numpy() for name, x in resnet.named_buffers()}
    return arrays | {f"new/{name}": x for name, x in buffers.items() if "running" in name}


def record_coca(seed: int = 3) -> dict[str, np.ndarray]:
    """open_clip's CoCa: file/NAME, images, tokens; CASE/image, CASE/text and CASE/logits.

    Cases: shifted, the mask of padding as published weights were trained with, one place too far
    to the right; exact.
    """
    import torch

    width, layers, heads = 24, 2, 3
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": width, "heads": heads,
            "layers": layers}  # fmt: skip
    model = import_open_clip("coca_model").CoCa(
        embed_dim=width,
        vision_cfg={
            "image_size": SIDE, "layers": layers, "width": 16, "head_width": 8, "patch_size": 4,
            "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4,
            "output_tokens": True,
        },
        text_cfg={**text, "embed_cls": True, "output_tokens": True},
        multimodal_cfg=text,
    ).eval()  # fmt: skip
    rng = np.random.default_rng(seed)
    randomise(model, rng)
    arrays = _file(model)
    images, tokens = _inputs(rng)
    tokens = tokens[: len(images)]
    for row, at in enumerate((5, 8, 3)):
        tokens[row, at:] = 0
    arrays |= {"images": images, "tokens": tokens}
    for case, correct in (("shifted", False), ("exact", True)):
        model.text.correct_cls_mask = correct
        with torch.no_grad():
            out = model(
                torch.from_numpy(images).permute(0, 3, 1, 2),
                torch.from_numpy(tokens).long(),
                output_labels=False,
            )
        arrays[f"{case}/image"] = out["image_features"].numpy()
        arrays[f"{case}/text"] = out["text_features"].numpy()
        arrays[f"{case}/logits"] = out["logits"].numpy()
    return arrays


def _file(model) -> dict[str, np.ndarray]:
    """A copy of the weights; CLIP and SigLIP have the names of published files in memory, too."""
    return {f"file/{name}": x.numpy().copy() for name, x in model.state_dict().items()}


def randomise(model, rng: np.random.Generator) -> None:
    """Every leaf: norm scales near 1, kernels that keep the variance, all else about 0.3.

    The MLP's kernels are twice and four times that, as after training: its inputs reach where the
    forms of GELU differ most, near 2, and its share of the tokens is large. Logit scales are near
    CLIP's. Biases of batch norms are positive: of one or two channels, none shall be cut to zero
    everywhere.
    """
    import torch

    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        noise = rng.standard_normal(shape)
        owner = name.split(".")[-2] if "." in name else ""
        if "logit_scale" in name:
            noise = 2.6 + 0.3 * noise
        elif ("norm" in owner or owner.startswith(("bn", "ln")) or len(shape) == 1) and (
            name.endswith("weight")
        ):
            noise = 1 + 0.3 * noise
        elif len(shape) > 1 and name.endswith("weight") and "embedding" not in owner:
            gain = {"fc1": 2, "c_fc": 2, "fc2": 4}.get(owner, 1)
            noise = gain * noise / np.sqrt(np.prod(shape[1:]))
        elif owner.startswith("bn"):
            noise = 0.7 + 0.3 * noise
        else:
            noise = 0.3 * noise
        parameter.data = torch.from_numpy(np.asarray(noise, np.float32))


def import_open_clip(name: str) -> types.ModuleType:
    """One module of open_clip, without the package's own imports, which want torchvision."""
    import transformers  # noqa: F401  looks for the true torchvision, hence first

    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        for part in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
            sys.modules[part] = types.ModuleType(part)
        sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})
    if "open_clip" not in sys.modules:
        package = types.ModuleType("open_clip")
        package.__path__ = list(importlib.util.find_spec("open_clip").submodule_search_locations)
        sys.modules["open_clip"] = package
    return importlib.import_module(f"open_clip.{name}")


if __name__ == "__main__":
    main()
