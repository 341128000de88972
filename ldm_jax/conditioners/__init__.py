"""Conditioners: what a batch says about the picture wanted. `CONDITIONERS` lists them."""

from ldm_jax.conditioners.base import Conditioner
from ldm_jax.conditioners.class_label import ClassLabel
from ldm_jax.conditioners.compose import Compose
from ldm_jax.conditioners.concat import Concat
from ldm_jax.conditioners.inpainting import Inpainting
from ldm_jax.conditioners.precomputed import Precomputed
from ldm_jax.conditioners.spatial_rescaler import SpatialRescaler

CONDITIONERS = {
    "class_label": ClassLabel,
    "compose": Compose,
    "concat": Concat,
    "inpainting": Inpainting,
    "precomputed": Precomputed,
    "spatial_rescaler": SpatialRescaler,
}

__all__ = [
    "CONDITIONERS",
    "ClassLabel",
    "Compose",
    "Concat",
    "Conditioner",
    "Inpainting",
    "Precomputed",
    "SpatialRescaler",
]
