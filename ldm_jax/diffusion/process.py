"""The Gaussian forward process and its posterior, at integer timesteps t in [0, T-1]."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from ldm_jax.arrays import broadcast_to_rank
from ldm_jax.diffusion.schedules import Level, Schedule


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) for s < t: mean `coef_x0 * x0 + coef_x_t * x_t` and variance.

    Attributes:
      coef_x0, coef_x_t, variance: float64 host arrays, one entry for each pair (t, s).
      beta: the variance added from s to t; an upper bound of `variance`.
    """

    coef_x0: Float[np.ndarray, "..."]
    coef_x_t: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]
    beta: Float[np.ndarray, "..."]


def posterior(level: Level, previous: Level) -> Posterior:
    """The posterior between any two noise levels (Ho et al. 2020, eq. 6 and 7).

    `level` is that of t, `previous` that of the less noisy s; float64 host arrays.
    """
    alpha = level.signal_scale / previous.signal_scale
    noise, noise_prev = level.noise_scale**2, previous.noise_scale**2
    # Equal levels have nothing to add, whatever the rounding.
    beta = np.maximum(noise - alpha**2 * noise_prev, 0)
    return Posterior(
        coef_x0=previous.signal_scale * beta / noise,
        coef_x_t=alpha * noise_prev / noise,
        variance=beta * noise_prev / noise,
        beta=beta,
    )


def step_posterior(schedule: Schedule) -> Posterior:
    """q(x_{t-1} | x_t, x_0) for every t, with clean data at t = -1: arrays `[T]`."""
    signal, noise = schedule.exact_signal_scales, schedule.exact_noise_scales
    t = np.arange(schedule.num_timesteps)
    previous = Level(t - 1, np.append(1.0, signal[:-1]), np.append(0.0, noise[:-1]))
    return posterior(Level(t, signal, noise), previous)


def scales_at(
    schedule: Schedule, t: Real[Array, " b"], rank: int
) -> tuple[Array, Array]:
    """(signal_scale, noise_scale) at t, each `[b, 1, ..., 1]` of `rank` axes.

    `t` may be of a float dtype but must hold integers: fractions are truncated.
    """
    index = jnp.asarray(t).astype(jnp.int32)
    signal_scale = jnp.asarray(schedule.signal_scales)[index]
    noise_scale = jnp.asarray(schedule.noise_scales)[index]
    return broadcast_to_rank(signal_scale, rank), broadcast_to_rank(noise_scale, rank)


def diffuse(
    schedule: Schedule,
    x0: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    t: Int[Array, " b"],
) -> Float[Array, "b ..."]:
    """A sample of q(x_t | x_0): `signal_scale x0 + noise_scale eps`."""
    signal_scale, noise_scale = scales_at(schedule, t, x0.ndim)
    return signal_scale * x0 + noise_scale * eps
