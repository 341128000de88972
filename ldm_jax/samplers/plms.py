"""PLMS (Liu et al. 2022, "Pseudo Numerical Methods", eq. 12) as the reference runs it.

A DDIM step (eta 0) on a combination of the latest four eps: Adams-Bashforth's weights,
whatever the spacing of the levels. The first step averages eps with the one it leads to,
a second call of the model; the next two look back at what there is. The paper starts
with Runge-Kutta steps instead, which diffusers' `PNDMScheduler` leaves out at
`skip_prk_steps=True` and then gives the same numbers. Of order two.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import HostOrTraced, Sampler, pairs
from ldm_jax.samplers.euler import move, weight_of_eps
from ldm_jax.samplers.multistep import remember

# Of the newest eps and those before, by how many there are.
_ADAMS_BASHFORTH = np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


class Row(NamedTuple):
    """One step: DDIM's from `level` to `after`, and what its eps is corrected by.

    Attributes:
      level, after: where from and where to.
      coefs_eps: `[4]`, the newest eps first; they add up to 0.
      average: of the eps after the step less the one before it; the first step's.
    """

    level: Level
    after: Level
    coefs_eps: Float[HostOrTraced, "4"]
    average: Float[HostOrTraced, ""]


def _rows(levels: Level) -> Row:
    """A first step that leads to clean data, or starts without signal, is DDIM's.

    The reference also averages in a run of one step, at the timestep it started from.
    """
    level, after = pairs(levels)
    steps = np.arange(len(level.t))
    weight = weight_of_eps(level, after)
    change = _ADAMS_BASHFORTH[np.minimum(steps, 3)] - _ADAMS_BASHFORTH[0]
    average = np.where((steps == 0) & (after.noise_scale > 0), weight / 2, 0)
    return Row(level, after, weight[:, None] * change, average)


def _step(denoise_fn, x, state, row: Row, key):
    del key
    denoised = denoise_fn(x, row.level)
    recent = (denoised.eps, *state)
    x_next = move(denoised, row.after).astype(x.dtype)
    x_next += sum(row.coefs_eps[k] * eps for k, eps in enumerate(recent))

    def average(x_next):
        slope = denoise_fn(x_next, row.after).eps - denoised.eps
        return (x_next + row.average * slope).astype(x.dtype)

    x_next = x_next.astype(x.dtype)
    x_next = jax.lax.cond(row.average != 0, average, lambda x_next: x_next, x_next)
    return x_next, tuple(eps.astype(x.dtype) for eps in recent[:-1]), denoised.x0


PLMS = Sampler(_rows, remember(3), _step)
