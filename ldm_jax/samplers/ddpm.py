"""DDPM ancestral sampling (Ho et al. 2020, algorithm 2), also on a strided grid.

diffusers' `DDPMScheduler` gives the same numbers on the same levels with `fixed_small`
variance, and with `fixed_large` but for the last step: that adds noise too, unless it
starts from timestep 0.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import HostOrTraced, Sampler, no_state, pairs


class Row(NamedTuple):
    """One step: from x at `level` to `coef_x0 x0 + coef_x x + noise_scale noise`."""

    level: Level
    coef_x0: Float[HostOrTraced, ""]
    coef_x: Float[HostOrTraced, ""]
    noise_scale: Float[HostOrTraced, ""]


def _rows(
    levels: Level,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
    temperature: float = 1.0,
) -> Row:
    """Draws from q(x_s | x_t, x0) at the model's x0.

    Args:
      levels: where to step; all T of them for the sampler of the paper.
      variance: `posterior`, the lower bound and the reference's choice (v_posterior 0), or
        `beta`, the upper bound (v_posterior 1).
      temperature: multiplies the noise added in each step.

    A step that leads to clean data adds no noise.
    """
    if variance not in ("posterior", "beta"):
        raise ValueError(f"variance is {variance!r}; choose 'posterior' or 'beta'")
    level, after = pairs(levels)
    q = posterior(level, after)
    sigma = np.sqrt({"posterior": q.variance, "beta": q.beta}[variance])
    sigma = np.where(after.noise_scale > 0, sigma, 0)
    return Row(level, q.coef_x0, q.coef_x_t, sigma * temperature)


def _step(denoise_fn, x, state, row: Row, key):
    x0, _ = denoise_fn(x, row.level)
    noise = row.noise_scale * normal_like(key, x)
    return row.coef_x0 * x0 + row.coef_x * x + noise, state, x0


DDPM = Sampler(_rows, no_state, _step)
