"""The Gaussian forward process and its posterior, at integer timesteps t in [0, T-1]."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from ldm_jax.arrays import broadcast_to_rank
from ldm_jax.diffusion.schedules import Schedule


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


def posterior(
    alpha_bar: Float[np.ndarray, "..."], alpha_bar_prev: Float[np.ndarray, "..."]
) -> Posterior:
    """The posterior between any two noise levels (Ho et al. 2020, eq. 6 and 7).

    `alpha_bar` is that of t, `alpha_bar_prev` that of the less noisy s (1 for clean data).
    """
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    return Posterior(
        coef_x0=np.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar),
        coef_x_t=np.sqrt(alpha) * (1 - alpha_bar_prev) / (1 - alpha_bar),
        variance=beta * (1 - alpha_bar_prev) / (1 - alpha_bar),
        beta=beta,
    )


def step_posterior(schedule: Schedule) -> Posterior:
    """q(x_{t-1} | x_t, x_0) for every t, with alpha_bar_{-1} = 1: arrays `[T]`."""
    alpha_bar = schedule.exact_alphas_cumprod
    return posterior(alpha_bar, np.append(1.0, alpha_bar[:-1]))


def scales_at(
    schedule: Schedule, t: Real[Array, " b"], rank: int
) -> tuple[Array, Array]:
    """(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)), each `[b, 1, ..., 1]` of `rank` axes.

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
    """A sample of q(x_t | x_0): `sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps`."""
    signal_scale, noise_scale = scales_at(schedule, t, x0.ndim)
    return signal_scale * x0 + noise_scale * eps


def prior_bits_per_dim(
    schedule: Schedule, x0: Float[Array, "b ..."]
) -> Float[Array, " b"]:
    """KL(q(x_T | x_0) || N(0, I)) in bits, averaged over the dimensions of each x0."""
    alpha_bar = schedule.exact_alphas_cumprod[-1]
    log_variance = math.log1p(-alpha_bar)
    kl = 0.5 * (alpha_bar * x0**2 - alpha_bar - log_variance)
    return jnp.mean(kl.reshape(x0.shape[0], -1), axis=1) / math.log(2)
