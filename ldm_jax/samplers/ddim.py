"""DDIM (Song et al. 2021): deterministic at eta = 0, DDPM's noise at eta = 1."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.samplers.base import Sampler, no_state
from ldm_jax.samplers.grids import make_grid


class DDIMParameters(NamedTuple):
    """The constants of each step in ascending t: int32 and float64 host arrays `[s]`."""

    t: Int[np.ndarray, " s"]
    alpha_bar: Float[np.ndarray, " s"]
    alpha_bar_prev: Float[np.ndarray, " s"]
    sigma: Float[np.ndarray, " s"]


def ddim_parameters(
    schedule: Schedule,
    num_steps: int,
    *,
    eta: float,
    grid: str,
    final_alpha_bar: Literal["one", "first"],
) -> DDIMParameters:
    """Timesteps, noise levels before and after each step, and its noise (eq. 16)."""
    if final_alpha_bar not in ("one", "first"):
        raise ValueError(
            f"final_alpha_bar is {final_alpha_bar!r}; choose 'one' or 'first'"
        )
    t = make_grid(grid, schedule.num_timesteps, num_steps)
    alpha_bar = schedule.exact_alphas_cumprod[t]
    last = {"one": 1.0, "first": schedule.exact_alphas_cumprod[0]}[final_alpha_bar]
    alpha_bar_prev = np.append(last, alpha_bar[:-1])
    ratio = (1 - alpha_bar_prev) / (1 - alpha_bar)
    # A timestep below index 1 with `first`, or a repeated one, has nothing to add.
    variance = ratio * np.maximum(1 - alpha_bar / alpha_bar_prev, 0)
    return DDIMParameters(t, alpha_bar, alpha_bar_prev, eta * np.sqrt(variance))


def ddim(
    schedule: Schedule,
    num_steps: int = 50,
    *,
    eta: float = 0.0,
    temperature: float = 1.0,
    grid: str = "trailing",
    final_alpha_bar: Literal["one", "first"] = "one",
) -> Sampler:
    """The DDIM sampler (Song et al. 2021, eq. 12).

    Args:
      schedule: the noise levels the model was trained on.
      num_steps: how many steps; exactly so for the default grid.
      eta: 0 is deterministic, 1 has the variance of DDPM's posterior.
      temperature: multiplies the noise added in each step.
      grid: a name in `GRIDS`.
      final_alpha_bar: where the last step leads: `one`, to clean data, or `first`, to
        alpha_bar_0. `grid="ddim_uniform", final_alpha_bar="first"` is the reference.

    Raises:
      ValueError: for an unknown grid or choice, or an impossible number of steps.
    """
    parameters = ddim_parameters(
        schedule, num_steps, eta=eta, grid=grid, final_alpha_bar=final_alpha_bar
    )
    t, _, alpha_bar_prev, sigma = (table[::-1] for table in parameters)
    noise_direction = np.sqrt(np.maximum(1 - alpha_bar_prev - sigma**2, 0))
    tables = t, np.sqrt(alpha_bar_prev), noise_direction, sigma * temperature
    tables = [np.asarray(table, np.float32) for table in tables]
    has_noise = bool(np.any(tables[-1]))

    def step(denoise_fn, x, state, index, key):
        t, signal_scale, eps_scale, noise_scale = (
            jnp.asarray(table)[index] for table in tables
        )
        x0, eps = denoise_fn(x, jnp.full(x.shape[0], t))
        x_prev = signal_scale * x0 + eps_scale * eps
        if has_noise:
            x_prev = x_prev + noise_scale * normal_like(key, x)
        return x_prev, state

    return Sampler(no_state, step, len(t))
