"""Conditioners: what a batch says about the picture wanted. `CONDITIONERS` lists them."""

from ldm_jax.conditioners.base import Conditioner
from ldm_jax.conditioners.bert_text import BertText
from ldm_jax.conditioners.class_label import ClassLabel
from ldm_jax.conditioners.clip_text import ClipText
from ldm_jax.conditioners.compose import Compose
from ldm_jax.conditioners.concat import Concat
from ldm_jax.conditioners.inpainting import Inpainting
from ldm_jax.conditioners.precomputed import Precomputed
from ldm_jax.conditioners.size_and_crop import SizeAndCrop
from ldm_jax.conditioners.spatial_rescaler import SpatialRescaler
from ldm_jax.conditioners.token_transformer import TokenTransformer

CONDITIONERS = {
    "bert_text": BertText,
    "class_label": ClassLabel,
    "clip_text": ClipText,
    "compose": Compose,
    "concat": Concat,
    "inpainting": Inpainting,
    "precomputed": Precomputed,
    "size_and_crop": SizeAndCrop,
    "spatial_rescaler": SpatialRescaler,
    "token_transformer": TokenTransformer,
}

__all__ = [
    "CONDITIONERS",
    "BertText",
    "ClassLabel",
    "ClipText",
    "Compose",
    "Concat",
    "Conditioner",
    "Inpainting",
    "Precomputed",
    "SizeAndCrop",
    "SpatialRescaler",
    "TokenTransformer",
]
