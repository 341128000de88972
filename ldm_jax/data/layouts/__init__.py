"""Boxes with classes: what they are, how they are spelled, read and drawn."""

from ldm_jax.data.layouts.boxes import (
    FLAGS,
    WHOLE,
    Layout,
    concatenate,
    cropped,
    is_in,
    mirrored,
)
from ldm_jax.data.layouts.files import draw_layout, read_layout
from ldm_jax.data.layouts.tokens import (
    LayoutVocabulary,
    TokenizeLayout,
    decode_tokens,
    layout_tokens,
)

__all__ = [
    "FLAGS",
    "WHOLE",
    "Layout",
    "LayoutVocabulary",
    "TokenizeLayout",
    "concatenate",
    "cropped",
    "decode_tokens",
    "draw_layout",
    "is_in",
    "layout_tokens",
    "mirrored",
    "read_layout",
]
