"""Checkpoint files in and out: safe to open, read and written tensor by tensor."""

from ldm_jax.interop.archive.checkpoint import Checkpoint, Meta, open_checkpoint
from ldm_jax.interop.archive.lazy_tensors import (
    LazyTensors,
    TensorInfo,
    count_nonfinite,
)
from ldm_jax.interop.archive.safetensors_layout import write_safetensors

__all__ = [
    "Checkpoint",
    "LazyTensors",
    "Meta",
    "TensorInfo",
    "count_nonfinite",
    "open_checkpoint",
    "write_safetensors",
]
