"""Records what timm and torchvision augment, for the tests to compare with without them.

    python tools/record_augmentation_goldens.py      # writes tests/data/goldens/augmentations.npz

Needs timm, torch and torchvision, which are no requirements of this package. The file holds the
versions it was made with and the SHA-256 of this script; a test fails when they part.

Random numbers are replayed: where timm draws, it gets a recorded list of uniform numbers, so that
the tests can hand the same list to this package.
"""

import argparse
import hashlib
import json
import pathlib
import types

import numpy as np

GOLDENS = pathlib.Path(__file__).parent.parent / "tests" / "data" / "goldens"
LEVELS = np.arange(0, 10.5, 0.5)
SIZE = (23, 17)
"""(height, width) of the recorded images: odd and oblong."""
FILL = (124, 116, 104)
HUES = (-0.5, -0.23, -0.004, 0.0, 0.003, 0.1, 0.37, 0.5)
MAPS = {
    "Rotate": (-27.0, 8.5, 90.0),
    "ShearX": (-0.27, 0.1),
    "ShearY": (-0.27, 0.1),
    "TranslateXRel": (-0.4, 0.13),
    "TranslateYRel": (-0.4, 0.13),
}
TABLES = {"SolarizeAdd": (99, 33), "Solarize": (0, 77, 256), "PosterizeIncreasing": (1, 3, 4)}
ENHANCED = ("Color", "Contrast", "Brightness", "Sharpness")
FACTORS = (0.1, 0.55, 1.36, 1.9)
PLAIN = ("AutoContrast", "Equalize", "Invert")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    out = parser.parse_args().out / "augmentations.npz"
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **record(), **origin())
    print(f"{out}: {out.stat().st_size} bytes")


def origin() -> dict[str, np.ndarray]:
    """What made the file."""
    import PIL
    import timm
    import torchvision

    return {
        "origin/script_sha256": np.array(script_hash()),
        "origin/timm": np.array(timm.__version__),
        "origin/torchvision": np.array(torchvision.__version__),
        "origin/pillow": np.array(PIL.__version__),
    }


def script_hash() -> str:
    """SHA-256 of this file."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


def record() -> dict[str, np.ndarray]:
    """Everything, by key; the functions below name their keys."""
    images = {"rgb": image(3), "grey": image(1)}
    out = {f"image/{name}": pixels for name, pixels in images.items()}
    out |= timm_policies() | timm_values()
    for name, pixels in images.items():
        out |= timm_images(name, pixels)
    return out | torchvision_values() | hues(images["rgb"]) | erased() | mixed()


def image(channels: int) -> np.ndarray:
    """A smooth picture with little noise, (H, W, 3) or (H, W)."""
    rng = np.random.default_rng(channels)
    rows, columns = np.indices(SIZE)
    waves = [
        128 + 110 * np.sin(rows / a + columns / b + c) for a, b, c in rng.uniform(2, 9, (3, 3))
    ]
    pixels = np.stack(waves[:channels], -1) + rng.normal(0, 4, (*SIZE, channels))
    return np.clip(pixels, 9, 243).astype(np.uint8).squeeze()


def timm_policies() -> dict[str, np.ndarray]:
    """JSON: policy/rand, the operations of DeiT's recipe; policy/plain, without inc1;
    policy/original, AutoAugment's sub-policies with their values for a positive sign."""
    from timm.data import auto_augment

    auto_augment._randomly_negate = lambda v: v
    out = {}
    for key, text in (("rand", "rand-m9-mstd0.5-inc1"), ("plain", "rand-m9-mstd0.5")):
        policy = auto_augment.rand_augment_transform(text, {"img_mean": FILL})
        ops = [
            (op.name, op.prob, op.magnitude, op.magnitude_std, list(op.kwargs["fillcolor"]))
            for op in policy.ops
        ]
        out[f"policy/{key}"] = np.array(json.dumps([policy.num_layers, ops]))
    original = [
        [(op.name, op.prob, list(level(op.name, op.magnitude))) for op in pair]
        for pair in auto_augment.auto_augment_policy("original")
    ]
    return out | {"policy/original": np.array(json.dumps(original))}


def level(name: str, magnitude: float) -> tuple:
    """What timm calls an operation with at a magnitude."""
    from timm.data import auto_augment

    rule = auto_augment.LEVEL_TO_ARG[name]
    return rule(magnitude, {"translate_pct": 0.45}) if rule else ()


def timm_values() -> dict[str, np.ndarray]:
    """value/NAME (2, levels): arguments at LEVELS, with the positive and the negative sign."""
    from timm.data import auto_augment

    out = {"value/levels": LEVELS}
    for name in auto_augment._RAND_TRANSFORMS + auto_augment._RAND_INCREASING_TRANSFORMS:
        if auto_augment.LEVEL_TO_ARG[name] is None:
            continue
        rows = []
        for sign in (1.0, -1.0):
            auto_augment._randomly_negate = lambda v, sign=sign: sign * v
            rows.append([level(name, m)[0] for m in LEVELS])
        out[f"value/{name}"] = np.array(rows, float)
    return out


def timm_images(kind: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """KIND/NAME/METHOD (values, H, W[, 3]) of maps; KIND/NAME of the rest."""
    from PIL import Image
    from timm.data import auto_augment

    source = Image.fromarray(pixels)
    fill = FILL if kind == "rgb" else FILL[0]
    options = {"fillcolor": fill}
    out = {}

    def apply(name, value, **more):
        arguments = () if value is None else (value,)
        done = auto_augment.NAME_TO_OP[name](source, *arguments, **options, **more)
        return np.asarray(done)

    for method in ("nearest", "bilinear", "bicubic"):
        resample = Image.Resampling[method.upper()]
        for name, values in MAPS.items():
            done = [apply(name, value, resample=resample) for value in values]
            out[f"{kind}/{name}/{method}"] = np.stack(done)
    rest = TABLES | dict.fromkeys(ENHANCED, FACTORS) | dict.fromkeys(PLAIN, (None,))
    for name, values in rest.items():
        out[f"{kind}/{name}"] = np.stack([apply(name, value) for value in values])
    return out


def torchvision_values() -> dict[str, np.ndarray]:
    """torchvision/NAME (31,): magnitudes of RandAugment on 224x300 (height, width), unsigned."""
    from torchvision.transforms import RandAugment

    space = RandAugment()._augmentation_space(31, (224, 300))
    out = {"torchvision/names": np.array(list(space))}
    for name, (values, signed) in space.items():
        if values.ndim:
            out[f"torchvision/{name}"] = np.array(values)
            out[f"torchvision/{name}/signed"] = np.array(signed)
    return out


def hues(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """hue/turns and hue/images, of torchvision's adjust_hue; jitter/limits of its ColorJitter."""
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms.functional import adjust_hue

    done = [np.asarray(adjust_hue(Image.fromarray(pixels), turn)) for turn in HUES]
    jitter = transforms.ColorJitter(0.4, 1.5, 0.2, 0.1)
    limits = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue]
    return {
        "hue/turns": np.array(HUES),
        "hue/images": np.stack(done),
        "jitter/limits": np.array(limits, float),
    }


def erased() -> dict[str, np.ndarray]:
    """erasing/draws (cases, 64) in [0, 1), and erasing/mask (cases, H, W): what timm erased.

    Cases: erasing/counts boxes on images of 40x56, p 0.75.
    """
    import torch
    from timm.data import random_erasing

    draws, masks, counts = np.random.default_rng(0).random((60, 64)), [], []
    for case, numbers in enumerate(draws):
        random_erasing.random = replayed(numbers)
        count = 1 + case % 3
        eraser = random_erasing.RandomErasing(0.75, mode="const", min_count=count, device="cpu")
        masks.append((eraser(torch.ones(3, 40, 56))[0] == 0).numpy())
        counts.append(count)
    return {
        "erasing/draws": draws,
        "erasing/masks": np.stack(masks),
        "erasing/counts": np.array(counts),
    }


def replayed(numbers: np.ndarray) -> types.SimpleNamespace:
    """A stand-in for Python's `random` whose draws are `numbers`, one after the other."""
    rest = iter(numbers.tolist())
    return types.SimpleNamespace(
        random=lambda: next(rest),
        uniform=lambda low, high: low + next(rest) * (high - low),
        randint=lambda low, high: low + int(next(rest) * (high - low + 1)),
    )


def mixed() -> dict[str, np.ndarray]:
    """timm's Mixup on batches of two, where its partner (flipped) is ours (rolled).

    mix/images (2, H, W, 3), mix/labels (2,), of 5 classes, smoothing 0.1; mix/shares (cases,);
    mix/centres (cases, 2) as (row, column); mix/cutmix and mix/mixup (cases, 2, H, W, 3);
    mix/cutmix/targets and mix/mixup/targets (cases, 2, 5).
    """
    import torch
    from timm.data import mixup

    rng = np.random.default_rng(0)
    height, width = 11, 14
    images = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    labels = np.array([3, 1])
    shares = np.array([0.0, 0.013, 0.25, 0.5, 0.77, 0.9, 0.97, 0.995])
    centres = np.stack([rng.integers(0, height, 8), rng.integers(0, width, 8)], -1)
    out = {"images": images, "labels": labels, "shares": shares, "centres": centres}
    for name, settings in (
        ("mixup", {"mixup_alpha": 1.0, "cutmix_alpha": 0.0}),
        ("cutmix", {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}),
    ):
        rows = []
        for share, centre in zip(shares, centres.tolist(), strict=True):
            places = iter(centre)
            mixup.np = types.SimpleNamespace(
                sqrt=np.sqrt,
                clip=np.clip,
                random=types.SimpleNamespace(
                    rand=lambda: 0.0,
                    beta=lambda a, b, share=share: share,
                    randint=lambda low, high, size=None, places=places: next(places),
                ),
            )
            mix = mixup.Mixup(**settings, label_smoothing=0.1, num_classes=5)
            batch = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
            x, target = mix(batch, torch.tensor(labels))
            rows.append((x.permute(0, 2, 3, 1).numpy(), target.numpy()))
        out[name], out[f"{name}/targets"] = (np.stack(part) for part in zip(*rows, strict=True))
    return {f"mix/{key}": value for key, value in out.items()}


if __name__ == "__main__":
    main()
