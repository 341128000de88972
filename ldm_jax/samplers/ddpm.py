"""DDPM ancestral sampling (Ho et al. 2020, algorithm 2), also on a strided grid."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.samplers.base import Sampler, no_state
from ldm_jax.samplers.grids import make_grid


def ddpm(
    schedule: Schedule,
    num_steps: int | None = None,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
    temperature: float = 1.0,
    grid: str = "trailing",
) -> Sampler:
    """Draws from q(x_s | x_t, x0) at the model's x0, from t to the next s of the grid.

    Args:
      schedule: the noise levels the model was trained on.
      num_steps: how many steps; None for all T.
      variance: `posterior`, the lower bound and the reference's choice (v_posterior 0), or
        `beta`, the upper bound (v_posterior 1).
      temperature: multiplies the noise added in each step.
      grid: a name in `GRIDS`.

    The last step leads to clean data and adds no noise.

    Raises:
      ValueError: for an unknown grid or variance, or an impossible number of steps.
    """
    if variance not in ("posterior", "beta"):
        raise ValueError(f"variance is {variance!r}; choose 'posterior' or 'beta'")
    t = make_grid(grid, schedule.num_timesteps, num_steps or schedule.num_timesteps)
    alpha_bar = schedule.exact_alphas_cumprod[t]
    q = posterior(alpha_bar, np.append(1.0, alpha_bar[:-1]))
    sigma = np.sqrt({"posterior": q.variance, "beta": q.beta}[variance])
    sigma[0] = 0
    tables = [t, q.coef_x0, q.coef_x_t, sigma * temperature]
    tables = [np.asarray(table[::-1], np.float32) for table in tables]

    def step(denoise_fn, x, state, index, key):
        t, coef_x0, coef_x_t, noise_scale = (
            jnp.asarray(table)[index] for table in tables
        )
        x0, _ = denoise_fn(x, jnp.full(x.shape[0], t))
        noise = noise_scale * normal_like(key, x)
        return coef_x0 * x0 + coef_x_t * x + noise, state

    return Sampler(no_state, step, len(t))
