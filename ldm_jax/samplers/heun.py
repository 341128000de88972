"""Heun's method with churn (Karras et al. 2022, algorithms 1 and 2).

Of order two, with two calls of the model a step. It averages eps = dy/dsigma of both ends
(y = x / signal_scale, sigma = noise_scale / signal_scale), also on other schedules than
the paper's. Without churn it is k-diffusion's `sample_heun` and diffusers'
`HeunDiscreteScheduler`; on a rectified flow diffusers' `FlowMatchHeunDiscreteScheduler`
differs, because it averages velocities.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers import euler
from ldm_jax.samplers.base import HostOrTraced, Sampler, no_state


class Row(NamedTuple):
    """An Euler step and its correction, `correction (eps after it - eps before it)`.

    0 where there is none: at clean data, at a level without signal.
    """

    euler: euler.Row
    correction: Float[HostOrTraced, ""]

    @property
    def level(self) -> Level:
        """Of x."""
        return self.euler.level


def _rows(levels: Level, **churn: Any) -> Row:
    """Options are those of `euler.churned_rows`."""
    row = euler.churned_rows(levels, **churn)
    weight = euler.weight_of_eps(row.raised, row.after) / 2
    return Row(row, np.where(row.after.noise_scale > 0, weight, 0))


def _step(denoise_fn, x, state, row: Row, key):
    raised, after = row.euler.raised, row.euler.after
    denoised = denoise_fn(euler.churn_x(x, row.euler, key), raised)
    x_next = euler.move(denoised, after).astype(x.dtype)

    def correct(x_next):
        slope = denoise_fn(x_next, after).eps - denoised.eps
        return (x_next + row.correction * slope).astype(x.dtype)

    x_next = jax.lax.cond(row.correction != 0, correct, lambda x_next: x_next, x_next)
    return x_next, state, denoised.x0


HEUN = Sampler(_rows, no_state, _step)
