"""Samplers: `SAMPLERS[name].plan(levels, **options)`, then `sample`. See `base`."""

from ldm_jax.samplers.base import Plan, Sampler, bucket, pad, sample
from ldm_jax.samplers.ddim import DDIM, EULER, EULER_ANCESTRAL
from ldm_jax.samplers.ddpm import DDPM
from ldm_jax.samplers.grids import GRIDS, make_levels

__all__ = [
    "GRIDS",
    "SAMPLERS",
    "Plan",
    "Sampler",
    "bucket",
    "make_levels",
    "pad",
    "sample",
]

SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": EULER,
    "euler_ancestral": EULER_ANCESTRAL,
}
