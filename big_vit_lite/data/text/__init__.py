"""Text transforms, from a caption to tokens, written as text: "lower|tokenize('bytes')|pad(64)"."""

from big_vit_lite.data.text.ops import TextFault
from big_vit_lite.data.text.parse import TextTransform, check, length, missing, parse, same_reading

__all__ = ["TextFault", "TextTransform", "check", "length", "missing", "parse", "same_reading"]
