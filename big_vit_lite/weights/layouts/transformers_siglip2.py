"""transformers' Siglip2Model: SigLIP 2 of variable shape (NaFlex), and its image tower alone.

SigLIP 2 files of fixed size are laid out as SigLIP's.
"""

from typing import Any

from big_vit_lite import config
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import transformers as hf
from big_vit_lite.weights.layouts import transformers_siglip as siglip
from big_vit_lite.weights.layouts.transformers_clip import TEXT, prefix_of
from big_vit_lite.weights.preprocessing import HALF, Preprocessing, patches
from big_vit_lite.weights.processors import FLEXIBLE
from big_vit_lite.weights.rules import Form as ArrayForm
from big_vit_lite.weights.rules import Rule
from big_vit_lite.weights.sections import Known, Sections, image_section, square
from big_vit_lite.weights.sizes import image_sizes

KIND = "siglip2"


def fits(source: Source) -> bool:
    prefix = prefix_of(source, "head.probe")
    return prefix is not None and len(source.shapes.get(f"{prefix}{siglip.PATCHES}", ())) == 2


def describe(source: Source, known: Known) -> Description:
    about = hf.config_of(source, KIND, f"{KIND}_vision_model")
    prefix = prefix_of(source, "head.probe")
    alone = f"{TEXT}.embeddings.token_embedding.weight" not in source.arrays
    image = hf.settings(about.get("vision_config", about if alone else {}), f"{KIND}_vision_model")
    table = source.shapes[f"{prefix}embeddings.position_embedding.weight"]
    grid, patch = square(table[0], source.path), hf.pair(image["patch_size"])
    found = hf.preprocessing_of(source) or patches(patch[0], image["num_patches"], HALF)
    section = image_section(
        hf.size_of(image),
        patch,
        tuple(n * step for n, step in zip(grid, patch, strict=True)),
        channels=image["num_channels"],
        activation=hf.activation(image, source.path),
        norm_eps=image["layer_norm_eps"],
        **flexible(grid, image["num_patches"]),
    )
    sections = Sections(section) if alone else siglip.with_text(section, about, source)
    return Description(sections, found, {"prefix": prefix})


def flexible(grid: tuple[int, int], budget: int) -> dict[str, Any]:
    """Fields of a section whose images have any shape."""
    return {
        "max_patches": budget,
        "position_grid": grid,
        "position_resample": "bilinear_antialiased",
        "pool": "map",
    }


def rules(sections: Sections, form: Form) -> list[Rule]:
    return siglip.tower_rules(sections, form, _flat(sections.model))


def _flat(section: config.Model) -> ArrayForm:
    """(features, rows * columns * channels) to (rows, columns, channels, features)."""
    rows, columns = image_sizes(section)[1]
    return ArrayForm(
        lambda x: x.T.reshape(rows, columns, -1, x.shape[0]),
        lambda x: x.reshape(-1, x.shape[-1]).T,
    )


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    model = sections.model
    vision = hf.image_settings(model, *image_sizes(model))
    del vision["image_size"]
    vision |= {"num_patches": model.position_grid[0] * model.position_grid[1]}
    processor = hf.preprocessor(found, FLEXIBLE, form)
    return {"config.json": siglip.settings_of(KIND, vision, sections)} | processor


LAYOUT = Layout(
    "L23", "transformers-siglip2", "transformers SigLIP 2 of variable shape (NaFlex)", fits,
    describe, rules, carried=(r"((vision|text)_model\.)?embeddings\.position_ids",),
    configs=configs, json=hf.JSON,
)  # fmt: skip
