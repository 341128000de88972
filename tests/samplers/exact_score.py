"""Distributions whose score is known at every level, and schedules to draw them on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import Level, Schedule, linear
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample


def _zero_terminal(schedule):
    """Lin et al. 2024, algorithm 1."""
    scales = schedule.exact_signal_scales
    shifted = (scales - scales[-1]) * scales[0] / (scales[0] - scales[-1])
    return Schedule(shifted)


LDM = linear(beta_start=0.0015, beta_end=0.0195)
SCHEDULES = {
    "ldm": LDM,
    "zero_terminal_snr": _zero_terminal(LDM),
    "rectified_flow": Schedule(1 - np.arange(1, 1001) / 1000, power=1),
}

MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 0.7])


def gaussian_denoise_fn(x, level):
    """E[x0 | x_t] for data N(MEAN, STD^2) on the last axis."""
    _, a, s = level
    gain = a * STD**2 / (a**2 * STD**2 + s**2)
    x0 = MEAN + gain * (x - a * MEAN)
    return Denoised(x0, (x - a * x0) / s)


MODE_WEIGHTS = np.array([0.2, 0.3, 0.5])
MODE_MEANS = np.array([[-2.0, 0.0], [2.0, 1.5], [1.0, -2.0]])
MODE_STDS = np.array([0.5, 0.3, 0.4])
MIXTURE_MEAN = MODE_WEIGHTS @ MODE_MEANS
MIXTURE_COVARIANCE = (
    (MODE_WEIGHTS[:, None] * MODE_MEANS).T @ MODE_MEANS
    - np.outer(MIXTURE_MEAN, MIXTURE_MEAN)
    + MODE_WEIGHTS @ MODE_STDS**2 * np.eye(2)
)


def mixture_denoise_fn(x, level, stds=MODE_STDS):
    """E[x0 | x_t] for a mixture of three round Gaussians in the plane, x `[b 2]`."""
    _, a, s = level
    # Constants of x's dtype: jax 0.10 mixes up those of float32 and float64 programs.
    weights, means, stds = (
        jnp.asarray(v, x.dtype) for v in (MODE_WEIGHTS, MODE_MEANS, stds)
    )
    variance = (a * stds) ** 2 + s**2
    offset = x[:, None, :] - a * means
    log_density = -(offset**2).sum(-1) / (2 * variance) - jnp.log(variance)
    share = jax.nn.softmax(jnp.log(weights) + log_density)[..., None]
    x0_of_mode = means + (a * stds**2 / variance)[:, None] * offset
    x0 = (share * x0_of_mode).sum(1)
    return Denoised(x0, (x - a * x0) / s)


def point_denoise_fn(x, level):
    """E[x0 | x_t] where all data is one point, 0.7: every sampler's x0 is exact."""
    x0 = jnp.full_like(x, 0.7)
    return Denoised(x0, (x - level.signal_scale * x0) / level.noise_scale)


@functools.cache
def drawing(name, denoise_fn):
    return jax.jit(lambda *args: sample(denoise_fn, SAMPLERS[name], *args))


def draw(name, options, levels: Level, denoise_fn, x_T, key):
    """One program for all options and levels; most of these tests' time is compiling."""
    plan = pad(SAMPLERS[name].plan(levels, **options), 1024)
    return np.asarray(drawing(name, denoise_fn)(plan, x_T, key))


def levels_of(schedule_name, num_steps, **grid):
    return make_levels(SCHEDULES[schedule_name], num_steps, **grid)
