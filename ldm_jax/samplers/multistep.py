"""Linear multistep methods on x0: the step that DPM-Solver++ and UniPC share.

With lambda = log(signal_scale / noise_scale), the probability-flow ODE from one level to
the next (primed) is solved by (Lu et al. 2022, "DPM-Solver++", section 4)

    x' = (noise' / noise) x + noise' * integral of exp(l) x0(l) dl, lambda to lambda',

for every schedule of signal and noise scales, rectified flow included. What a solver
assumes of x0 between its evaluations becomes a row of coefficients of the latest x0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import HostOrTraced, pairs


class Row(NamedTuple):
    """One step: to `coef_x x + sum_k coefs_x0[k] x0_k + noise_scale noise`.

    Attributes:
      level: of x.
      coef_x: its multiplier.
      coefs_x0: `[k]`, the newest x0 first. Where there is no k-th yet, 0.
      noise_scale: of fresh noise.
    """

    level: Level
    coef_x: Float[HostOrTraced, ""]
    coefs_x0: Float[HostOrTraced, " k"]
    noise_scale: Float[HostOrTraced, ""]


def remember(num_x0: int) -> Callable[[Array], tuple[Array, ...]]:
    """`init` of a sampler that looks back at `num_x0` earlier predictions."""
    return lambda x: (jnp.zeros_like(x),) * num_x0


def step(denoise_fn, x, state, row: Row, key):
    """One call of the model; `state` holds the earlier x0, newest first."""
    x0 = denoise_fn(x, row.level).x0
    recent = (x0, *state)
    x_next = row.coef_x * x + row.noise_scale * normal_like(key, x)
    for k, one in enumerate(recent):
        x_next += row.coefs_x0[k] * one
    return x_next, tuple(one.astype(x.dtype) for one in recent[:-1]), x0


def half_log_snr(levels: Level) -> Float[np.ndarray, " n"]:
    """lambda of levels; infinite at pure noise and at clean data."""
    with np.errstate(divide="ignore"):
        return np.log(levels.signal_scale) - np.log(levels.noise_scale)


def available_order(half_log_snrs: Float[np.ndarray, " n"]) -> Int[np.ndarray, " s"]:
    """How many x0, the newest included, each step may interpolate through.

    1 in the first step, one more with each step. It starts again at 1 where lambda is
    infinite (no signal at the first level, no noise at the last) or does not move (a
    level visited twice), where nothing of higher order has a limit.
    """
    h = np.diff(half_log_snrs)
    orders, run = np.ones(len(h), np.int64), 0
    for i, is_regular in enumerate(np.isfinite(h) & (h != 0)):
        run = run + 1 if is_regular else 0
        orders[i] = max(run, 1)
    return orders


def weight_of_x0(levels: Level) -> Float[np.ndarray, " s"]:
    """What x0 weighs in each step if it is constant: `signal' - noise' signal / noise`."""
    level, after = pairs(levels)
    return (
        after.signal_scale - after.noise_scale * level.signal_scale / level.noise_scale
    )
