"""Sizes of the towers that sections describe, with what overrides a published name."""

from big_vit_lite import config
from big_vit_lite.models.sizes import RESNETS, Size, parse_size, parse_variant


def image_sizes(section: config.Model) -> tuple[Size, tuple[int, int]]:
    """Size and patch of a Vision Transformer."""
    size, patch = parse_variant(section.variant)
    if section.patch is not None:
        patch = (section.patch,) * 2 if isinstance(section.patch, int) else section.patch
    return _overridden(size, section), tuple(patch)


def resnet_heads(section: config.Model) -> int:
    """Heads of a ResNet's attention pool, of 64 features unless told otherwise."""
    width = section.width or RESNETS[section.variant].width
    return section.heads or max(1, width * 32 // 64)


def text_size(section: config.Text) -> Size:
    return _overridden(parse_size(section.variant, "text.variant"), section)


def _overridden(size: Size, section: config.Model | config.Text) -> Size:
    return Size(*(getattr(section, name) or getattr(size, name) for name in Size._fields))
