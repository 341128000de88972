"""Euler's method with churn (Karras et al. 2022, algorithm 2 without its correction).

Without churn it is DDIM at eta 0. In the coordinates of that paper
(y = x / signal_scale, sigma = noise_scale / signal_scale) the ODE is dy/dsigma = eps, and
on a rectified flow it is dx/dtau = eps - x0. An Euler step on either is
`x' = signal_scale' x0 + noise_scale' eps`; so is diffusers' `EulerDiscreteScheduler`. (Its
own churn asks the model before the noise is added, at the level before that.) Ancestral
Euler is DDIM at eta 1: see `ddim`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import HostOrTraced, Sampler, no_state, pairs


class Row(NamedTuple):
    """One step: up from `level` to `raised` by fresh noise, then down to `after`.

    Attributes:
      level: of x.
      raised: where the model is called, at `coef_x x + noise_scale noise`; `level` itself
        without churn.
      coef_x, noise_scale: of that.
      after: where the step leads.
    """

    level: Level
    raised: Level
    coef_x: Float[HostOrTraced, ""]
    noise_scale: Float[HostOrTraced, ""]
    after: Level


def churned_rows(
    levels: Level,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = float("inf"),
    temperature: float = 1.0,
) -> Row:
    """Karras et al. 2022, algorithm 2, in any schedule's own coordinates.

    Args:
      levels: where to step.
      churn: S_churn: over all s steps, sigma is multiplied by 1 + min(churn / s, 0.414)
        before each; 0 is deterministic. Their value for ImageNet is 40.
      churn_min, churn_max: S_tmin, S_tmax: the sigmas that are raised (0.05 and 50).
      temperature: S_noise, multiplies the noise added (1.003).

    Sigma is never raised above that of the first level. The timestep of a raised level is
    interpolated between those visited, in the angle of (signal_scale, noise_scale): within
    about two of 1000 from 20 steps on.
    """
    if not churn >= 0:
        raise ValueError(f"churn is {churn}: give a number from 0 on")
    level, after = pairs(levels)
    with np.errstate(divide="ignore"):
        sigma = level.noise_scale / level.signal_scale
    factor = 1 + min(churn / max(len(sigma), 1), 2**0.5 - 1)
    target = np.minimum(sigma * factor, sigma[:1])
    is_raised = (churn_min <= sigma) & (sigma <= churn_max) & (target > sigma)
    raised = _raise(level, target, is_raised)
    coef_x = np.ones_like(sigma)
    np.divide(raised.signal_scale, level.signal_scale, out=coef_x, where=is_raised)
    variance = raised.noise_scale**2 - (coef_x * level.noise_scale) ** 2
    noise_scale = temperature * np.sqrt(np.where(is_raised, variance, 0))
    return Row(level, raised, coef_x, noise_scale, after)


def _raise(level: Level, sigma: np.ndarray, is_raised: np.ndarray) -> Level:
    """`level`, with that ratio of noise to signal where `is_raised`."""
    signal, noise = level.signal_scale, level.noise_scale
    power = 1 if np.allclose(signal + noise, 1) else 2  # see Schedule.power
    angle = np.arctan2(noise, signal)
    t = np.interp(np.arctan(sigma), angle[::-1], np.asarray(level.t)[::-1])
    scale = (1 + np.where(is_raised, sigma, 0) ** power) ** (-1 / power)
    values = Level(t, scale, np.where(is_raised, sigma, 0) * scale)
    return Level(
        *(np.where(is_raised, a, b) for a, b in zip(values, level, strict=True))
    )


def churn_x(x, row: Row, key):
    """x at `row.raised`."""
    raised = row.coef_x * x + row.noise_scale * normal_like(key, x)
    return raised.astype(x.dtype)


def move(denoised: Denoised, after: Level) -> Any:
    """The Euler step: the same x0 and eps at the level `after`."""
    return after.signal_scale * denoised.x0 + after.noise_scale * denoised.eps


def weight_of_eps(level: Level, after: Level) -> Float[np.ndarray, " s"]:
    """What another eps in an Euler step would weigh: `noise' - signal' sigma`.

    0 where the level has no signal, so that x says nothing about x0: methods that correct
    eps are of order one there.
    """
    has_signal = level.signal_scale > 0
    sigma = level.noise_scale / np.where(has_signal, level.signal_scale, 1)
    return np.where(has_signal, after.noise_scale - after.signal_scale * sigma, 0)


def _step(denoise_fn, x, state, row: Row, key):
    denoised = denoise_fn(churn_x(x, row, key), row.raised)
    return move(denoised, row.after), state, denoised.x0


EULER = Sampler(churned_rows, no_state, _step)
