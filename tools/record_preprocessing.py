"""Records what torchvision, timm and transformers make of images, for the tests to compare with.

    python tools/record_preprocessing.py           # writes tests/data/goldens/preprocessing.npz

Needs torch, torchvision, timm and transformers, which are no requirements of this package. The file
holds the versions it was made with and its inputs.

Keys: image/NAME is an input as PNG bytes; PIPELINE/NAME what became of it, uint8 (H, W, 3);
fallback/HxW the box (top, left, height, width) of torchvision's RandomResizedCrop where no draw
fits.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

GOLDENS = pathlib.Path(__file__).parent.parent / "tests" / "data" / "goldens"
SHAPES = {"wide": (48, 97), "tall": (75, 44), "odd": (57, 58), "small": (19, 31), "long": (33, 132)}
TOO_LONG = [(20, 400), (400, 20), (7, 64), (65, 9), (1, 50), (50, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "preprocessing.npz", **record())
    print(f"{out / 'preprocessing.npz'}: {(out / 'preprocessing.npz').stat().st_size} bytes")


def record() -> dict[str, np.ndarray]:
    import PIL
    import timm
    import torchvision
    import transformers

    libraries = {"pillow": PIL, "timm": timm, "torchvision": torchvision}
    libraries["transformers"] = transformers
    arrays = {f"origin/{name}": np.array(lib.__version__) for name, lib in libraries.items()}
    made = pipelines()
    for name, image in images().items():
        file = io.BytesIO()
        image.save(file, format="PNG")
        arrays[f"image/{name}"] = np.frombuffer(file.getvalue(), np.uint8)
        for pipeline, function in made.items():
            arrays[f"{pipeline}/{name}"] = np.asarray(function(image))
    crop = torchvision.transforms.RandomResizedCrop
    for height, width in TOO_LONG:
        box = crop.get_params(Image.new("L", (width, height)), [0.9, 1.0], [3 / 4, 4 / 3])
        arrays[f"fallback/{height}x{width}"] = np.array(box)
    return arrays


def images() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    found = {}
    for name, (height, width) in SHAPES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (7, 8, 4), dtype=np.uint8), "RGBA")
        found[name] = coarse.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    found["grey"] = found["wide"].convert("L")
    found["palette"] = found["tall"].quantize(32)
    alpha = Image.fromarray(rng.integers(0, 256, (57, 58), dtype=np.uint8))
    found["alpha"] = found["odd"].copy()
    found["alpha"].putalpha(alpha)
    return found


def pipelines() -> dict:
    """Functions of a Pillow image. "late": images become RGB after, not before."""
    from timm.data import create_transform
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    def chain(*steps):
        return transforms.Compose([lambda image: image.convert("RGB"), *steps])

    def from_timm(size, crop_pct):
        steps = create_transform(size, crop_pct=crop_pct, interpolation="bicubic").transforms[:2]
        return chain(*steps)

    def from_transformers(processor):
        def function(image):
            made = processor(
                images=image.convert("RGB"),
                do_rescale=False,
                do_normalize=False,
                return_tensors="np",
            )
            return np.moveaxis(made["pixel_values"][0], 0, -1).astype(np.uint8)

        return function

    clip = [transforms.Resize(24, InterpolationMode.BICUBIC), transforms.CenterCrop(24)]
    square = {"height": 24, "width": 24}
    return {
        "clip": chain(*clip),
        "clip late": transforms.Compose([*clip, lambda image: image.convert("RGB")]),
        "timm 0.9": from_timm(24, 0.9),
        "timm 0.875": from_timm(24, 0.875),
        "timm 1.0": from_timm(24, 1.0),
        "transformers clip": from_transformers(
            CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=square)
        ),
        "transformers siglip": from_transformers(SiglipImageProcessorPil(size=square)),
    }


if __name__ == "__main__":
    main()
