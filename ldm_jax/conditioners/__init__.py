"""Conditioners: what a batch says about the picture wanted. `CONDITIONERS` lists them."""

from ldm_jax.conditioners.base import Conditioner
from ldm_jax.conditioners.class_label import ClassLabel
from ldm_jax.conditioners.concat import Concat

CONDITIONERS = {"class_label": ClassLabel, "concat": Concat}

__all__ = ["CONDITIONERS", "ClassLabel", "Concat", "Conditioner"]
