"""DDIM (Song et al. 2021): deterministic at eta = 0, DDPM's noise at eta = 1.

At eta = 0 it is also Euler's method (see `euler`), and k-diffusion's ancestral Euler step,
`sigma_up` included, is DDIM at the same eta; diffusers' `EulerAncestralDiscreteScheduler`
has eta = 1. diffusers' `DDIMScheduler` gives the same numbers on the same levels: its last
step leads to clean data with `set_alpha_to_one=True`, else to the first timestep.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import HostOrTraced, Sampler, no_state, pairs


class Row(NamedTuple):
    """One step: from `level` to `signal_scale x0 + eps_scale eps + noise_scale noise`."""

    level: Level
    signal_scale: Float[HostOrTraced, ""]
    eps_scale: Float[HostOrTraced, ""]
    noise_scale: Float[HostOrTraced, ""]


def _rows(levels: Level, *, eta: float = 0.0, temperature: float = 1.0) -> Row:
    """Eq. 12 and 16.

    Args:
      levels: where to step.
      eta: 0 is deterministic, 1 has the variance of DDPM's posterior.
      temperature: multiplies the noise added in each step.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: give a number from 0 to 1")
    level, after = pairs(levels)
    sigma = eta * np.sqrt(posterior(level, after).variance)
    eps_scale = np.sqrt(np.maximum(after.noise_scale**2 - sigma**2, 0))
    return Row(level, after.signal_scale, eps_scale, sigma * temperature)


def _step(denoise_fn, x, state, row: Row, key):
    x0, eps = denoise_fn(x, row.level)
    noise = row.noise_scale * normal_like(key, x)
    return row.signal_scale * x0 + row.eps_scale * eps + noise, state, x0


DDIM = Sampler(_rows, no_state, _step)
EULER_ANCESTRAL = Sampler(partial(_rows, eta=1.0), no_state, _step)
