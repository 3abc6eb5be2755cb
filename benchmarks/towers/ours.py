"""Sides `jit` and `stablehlo` of latency.py; `--side prepare` writes the models for all sides."""

import argparse
import sys
from pathlib import Path

import turns

NAMES = {"vit": "logits", "clip": "image_features,text_features"}
"""What is exported of each model; the case's own function is found by `function`."""


def function(case: str) -> str:
    """The function that a case calls."""
    return "logits" if case == "vit_image" else f"{case.removeprefix('clip_')}_features"


def prepare() -> None:
    """Random models in transformers' layout, from which all sides start, and what is exported."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--format", required=True, choices=["stablehlo", "onnx"])
    parser.add_argument("--models", nargs="+", required=True, choices=list(NAMES))
    options = parser.parse_args()
    import jax
    import numpy as np

    import big_vit_lite as bvl
    from big_vit_lite import config, models, serving, weights

    def draw(path, x):
        """Every leaf random; drawn here, as compiling the models' own values takes longer."""
        centre = {"scale": 1.0, "t": np.log(10.0)}.get(path[-1].key, 0.0)
        return rng.normal(centre, 0.02, x.shape).astype(np.float32)

    rng = np.random.default_rng(0)
    clip = {"activation": "quick", "norm_eps": 1e-5}
    image = {"patch_bias": False, "pre_norm": True, "image_size": turns.IMAGE, **clip}
    # transformers' ViT has the exact GELU and 1e-12.
    vit = config.Model(
        variant="B/16", classes=1000, image_size=turns.IMAGE, activation="erf", norm_eps=1e-12,
        position_resample="cubic_torch",
    )  # fmt: skip
    made = {
        "vit": (weights.Sections(vit), "transformers-vit"),
        "clip": (
            weights.Sections(
                config.Model(variant="B/32", position_resample="cubic_torch", **image),
                config.Text(length=turns.LENGTH, **clip),
                config.Joint(features=512),
            ),
            "transformers-clip",
        ),
    }
    for name in options.models:
        sections, layout = made[name]
        path = options.folder / name
        if not path.exists():
            model = sections.build("cpu", scan=False)
            shapes = models.abstract_params(model)
            weights.save(path, jax.tree.map_with_path(draw, shapes), sections, layout)
        serving.export(
            bvl.load(path),
            options.folder / f"{name}-{options.format}",
            NAMES[name].split(","),
            options.format,
            pixels="float32",
        )


def main() -> None:
    options = turns.read_options()
    import jax
    import numpy as np

    model_name, name = options.case.split("_")[0], function(options.case)
    import big_vit_lite as bvl
    from big_vit_lite import serving
    from big_vit_lite.report import flops, hardware

    model = bvl.load(options.folder / model_name)
    if options.side == "stablehlo":
        call = serving.load(options.folder / f"{model_name}-stablehlo")[name]
    else:
        call = {
            "logits": model.logits,
            "image_features": model.encode_image,
            "text_features": model.encode_text,
        }[name]

    def more(batch: int) -> dict:
        """The floor: multiply-adds, and how fast matrix products are here and now."""
        if options.side != "jit":
            return {}
        given = turns.inputs(options.case, batch)
        rate = hardware.measured_matmul_rate.__wrapped__(size=2048, runs=5)
        return {"flops": flops.count_flops(jax.make_jaxpr(call)(given)), "matmul": rate}

    facts = {"versions": {"jax": jax.__version__}}
    turns.serve(options, facts, jax.device_put, lambda x: np.asarray(call(x)), more)


if __name__ == "__main__":
    prepare() if "prepare" in sys.argv else main()
