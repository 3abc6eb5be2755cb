"""Sizes of the towers that sections describe, with what overrides a published name."""

from big_vit_lite import config
from big_vit_lite.models.sizes import RESNETS, Size, parse_size, parse_variant


def image_sizes(section: config.Model) -> tuple[Size, tuple[int, int]]:
    """Size and patch of a Vision Transformer; a hybrid's patch is in positions of its maps."""
    size, patch, _ = parse_variant(section.variant)
    if section.patch is not None:
        patch = (section.patch,) * 2 if isinstance(section.patch, int) else section.patch
    return _overridden(size, section), tuple(patch)


def stem_sizes(section: config.Model) -> tuple[tuple[int, ...], int] | None:
    """Stages and width of the ResNet of a hybrid; None for other Vision Transformers."""
    stages = parse_variant(section.variant).stages
    if stages is None:
        return None
    return tuple(stages if section.stages is None else section.stages), section.stem_width or 64


def resnet_sizes(section: config.Model) -> tuple[tuple[int, ...], int]:
    """Stages and width of one of CLIP's ResNets."""
    size = RESNETS[section.variant]
    return tuple(section.stages or size.stages), section.width or size.width


def resnet_heads(section: config.Model) -> int:
    """Heads of a ResNet's attention pool, of 64 features unless told otherwise."""
    width = section.width or RESNETS[section.variant].width
    return section.heads or max(1, width * 32 // 64)


def text_size(section: config.Text) -> Size:
    return _overridden(parse_size(section.variant, "text.variant"), section)


def _overridden(size: Size, section: config.Model | config.Text) -> Size:
    return Size(*(getattr(section, name) or getattr(size, name) for name in Size._fields))
