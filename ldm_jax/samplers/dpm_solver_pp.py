"""DPM-Solver++ of order two (Lu et al. 2022): 2S, 2M and SDE-2M.

All three call the model once a step and are first-order steps (DDIM's) plus a correction
by the difference of two x0, in the midpoint form of the paper: rows for `multistep.step`.
The order is one in the first step, where the next level is clean data, and beside levels
without signal. diffusers' `DPMSolverMultistepScheduler` (`dpmsolver++`,
`sde-dpmsolver++`) and `DPMSolverSinglestepScheduler` give the same numbers at
`solver_order=2, solver_type="midpoint"` on the same levels.
"""

import numpy as np

from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers.base import Sampler, pairs
from ldm_jax.samplers.multistep import (
    Row,
    available_order,
    half_log_snr,
    remember,
    step,
    weight_of_x0,
)

_FEW_STEPS = 15


def _multistep(levels: Level, *, eta: float = 1.0, temperature: float = 1.0) -> Row:
    """SDE-DPM-Solver++(2M); at eta 0 it is DPM-Solver++(2M), algorithm 2.

    Args:
      levels: where to step.
      eta: how much of the noise is replaced on the way: 0 is the ODE, 1 the paper's SDE;
        in between as in k-diffusion.
      temperature: multiplies the noise added in each step.

    With fewer than 15 steps the last one is of order one, as in the Stable Diffusion
    scripts and diffusers; k-diffusion keeps order two.
    """
    if not eta >= 0:
        raise ValueError(f"eta is {eta}: give a number from 0 on")
    level, after = pairs(levels)
    half_log_snrs = half_log_snr(levels)
    is_second = available_order(half_log_snrs) > 1
    if len(is_second) < _FEW_STEPS:
        is_second[-1:] = False
    h = np.where(is_second, np.diff(half_log_snrs), 0)
    h_before = np.where(is_second, np.roll(np.diff(half_log_snrs), 1), 1)
    extrapolation = h / (2 * h_before)  # x0 + h / (2 h_before) (x0 - the x0 before)
    ratio = after.noise_scale / level.noise_scale
    decay = ratio * level.signal_scale / after.signal_scale  # exp(-h)
    weight = after.signal_scale * (1 - decay ** (1 + eta))
    noise_scale = after.noise_scale * np.sqrt(1 - decay ** (2 * eta))
    coefs_x0 = [weight * (1 + extrapolation), -weight * extrapolation]
    return Row(
        level, ratio * decay**eta, np.stack(coefs_x0, -1), noise_scale * temperature
    )


def _singlestep(levels: Level) -> Row:
    """DPM-Solver++(2S), algorithm 1, with its inner points on the grid.

    Two steps make one of the paper's: the first leads to the inner point, the second starts
    over from the level before it, with what was learned there. That level's x follows
    from the inner point's, so the second is a step on two x0 as well. An odd number of
    steps ends with one of order one. The paper puts the inner point halfway in lambda,
    as the grid `log_snr` does; k-diffusion puts it between two levels of the grid, and so
    calls the model twice as often.
    """
    level, after = pairs(levels)
    half_log_snrs = half_log_snr(levels)
    is_second = (available_order(half_log_snrs) > 1) & (
        np.arange(len(level.t)) % 2 == 1
    )
    h = np.diff(half_log_snrs)
    r = np.where(is_second, np.roll(h, 1), 1)
    r = r / np.where(is_second, h + r, 1)
    weight = weight_of_x0(levels)
    # From the level before the inner point: its weight, and the share of the newest x0.
    ratio = after.noise_scale / level.noise_scale
    weight_of_both = weight + ratio * np.roll(weight, 1)
    newest = np.where(is_second, weight_of_both / (2 * r), weight)
    coefs_x0 = np.stack([newest, weight - newest], -1)
    return Row(level, ratio, coefs_x0, np.zeros_like(ratio))


DPMPP_2S = Sampler(_singlestep, remember(1), step)
DPMPP_2M = Sampler(lambda levels: _multistep(levels, eta=0.0), remember(1), step)
DPMPP_SDE_2M = Sampler(_multistep, remember(1), step)
