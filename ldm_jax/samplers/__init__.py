"""Samplers: `SAMPLERS[name].plan(levels, **options)`, then `sample`. See `base`."""

from ldm_jax.samplers.base import Plan, Sampler, bucket, pad, sample
from ldm_jax.samplers.ddim import DDIM, EULER_ANCESTRAL
from ldm_jax.samplers.ddpm import DDPM
from ldm_jax.samplers.dpm_solver_pp import DPMPP_2M, DPMPP_2S, DPMPP_SDE_2M
from ldm_jax.samplers.euler import EULER
from ldm_jax.samplers.grids import GRIDS, make_levels
from ldm_jax.samplers.heun import HEUN
from ldm_jax.samplers.plms import PLMS
from ldm_jax.samplers.unipc import UNIPC

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
    "heun": HEUN,
    "plms": PLMS,
    "dpmpp_2s": DPMPP_2S,
    "dpmpp_2m": DPMPP_2M,
    "dpmpp_sde_2m": DPMPP_SDE_2M,
    "unipc": UNIPC,
}
