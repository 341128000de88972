"""Samplers: `SAMPLERS[name](schedule, num_steps, **options) -> Sampler`."""

from ldm_jax.samplers.base import Sampler, sample
from ldm_jax.samplers.ddim import ddim
from ldm_jax.samplers.ddpm import ddpm

__all__ = ["SAMPLERS", "Sampler", "ddim", "ddpm", "sample"]

SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
}
