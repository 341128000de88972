"""Which noise levels a sampler visits, from the noisiest to the last.

Grids of timesteps ascend, in [0, T-1]. `power`, `trailing` and `leading` give exactly the
requested number of distinct whole steps for every 1 <= n <= T; `ddim_uniform` and
`ddim_quad` are the reference's own lists, which may hold another number. `linspace` and
`time_uniform` may fall between two timesteps, as do the grids of noise levels: `karras`,
`log_snr`, `align_your_steps`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ldm_jax.diffusion.schedules import Level, Schedule

Grid = Callable[[int, int], np.ndarray]
SigmaGrid = Callable[[Schedule, int], Float[np.ndarray, " s"]]

# Sabour et al. 2024, the published 10-step timesteps for Stable Diffusion 1.5.
_ALIGN_YOUR_STEPS = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)


def trailing(num_timesteps: int, num_steps: int) -> Int[np.ndarray, " s"]:
    """Equal spacing that ends at T-1, so sampling starts at the noisiest level.

    Lin et al. 2024, table 2: with few steps the start matters more than the end.
    """
    ends = np.arange(1, num_steps + 1) * num_timesteps
    return (2 * ends + num_steps) // (2 * num_steps) - 1


def leading(num_timesteps: int, num_steps: int) -> Int[np.ndarray, " s"]:
    """Equal spacing that starts at 0; the noisiest level visited is about T - T/n.

    diffusers spaces by floor(T / n) and so starts lower when n does not divide T.
    """
    return np.arange(num_steps) * num_timesteps // num_steps


def linspace(num_timesteps: int, num_steps: int) -> Float[np.ndarray, " s"]:
    """From 0 to T-1, both visited, fractions kept; one step is T-1.

    k-diffusion's default and diffusers' for Euler; its DDIM and DDPM round.
    """
    return np.linspace(num_timesteps - 1, 0, num_steps)[::-1]


def time_uniform(num_timesteps: int, num_steps: int) -> Float[np.ndarray, " s"]:
    """n + 1 equal points from T-1 to 0, fractions kept, without the one at 0.

    DPM-Solver's time_uniform in the Stable Diffusion scripts, which end at that point:
    `final="first"`.
    """
    return np.linspace(num_timesteps - 1, 0, num_steps + 1)[-2::-1]


def power(
    num_timesteps: int, num_steps: int, exponent: float = 1.5
) -> Int[np.ndarray, " s"]:
    """From 0 to T-1, denser at low noise: `(T - 1) (k / (n - 1))^exponent`; one step is T-1.

    With an exact denoiser of a 1-d mixture, DDIM's distance to
    the data is 15 to 40 % smaller than with equal spacing for 10 to 50 steps on both the
    LDM and the Stable Diffusion schedule (5 steps: `trailing` is better). n = T visits all.
    """
    k = np.arange(num_steps)
    fraction = k / (num_steps - 1) if num_steps > 1 else np.ones(1)
    rounded = np.floor((num_timesteps - 1) * fraction**exponent + 0.5).astype(np.int64)
    return np.maximum(rounded, k)


def ddim_uniform(num_timesteps: int, num_steps: int) -> Int[np.ndarray, " s"]:
    """The reference's default list: 0, c, 2c, ... plus one, with c = T // n.

    It holds more than n steps when n does not divide T (n = 150 gives 167). Where the
    reference's last entry is T, an index out of range on which it fails (n = 3, 9, 27,
    501..1000 of T = 1000 and others), this list ends at T-1.
    """
    steps = np.arange(0, num_timesteps, num_timesteps // num_steps) + 1
    return np.unique(np.minimum(steps, num_timesteps - 1))


def ddim_quad(num_timesteps: int, num_steps: int) -> Int[np.ndarray, " s"]:
    """The reference's quadratic list: floor(linspace(0, sqrt(0.8 T), n)^2) + 1.

    Dense at low noise. Early entries may repeat, as in the reference; a repeated one
    costs a call of the model and moves nothing when eta is 0.
    """
    roots = np.linspace(0, math.sqrt(0.8 * num_timesteps), num_steps)
    return np.minimum((roots**2).astype(np.int64) + 1, num_timesteps - 1)


def karras(
    schedule: Schedule, num_steps: int, rho: float = 7.0
) -> Float[np.ndarray, " s"]:
    """sigma^(1/rho) equally spaced from sigma_{T-1} to sigma_0 (Karras et al. 2022, eq. 5)."""
    first, last = _sigmas(schedule)[[-1, 0]] ** (1 / rho)
    return np.linspace(first, last, num_steps) ** rho


def log_snr(schedule: Schedule, num_steps: int) -> Float[np.ndarray, " s"]:
    """The logarithm of the signal-to-noise ratio equally spaced from T-1 to 0."""
    first, last = _sigmas(schedule)[[-1, 0]]
    return np.geomspace(first, last, num_steps)


def align_your_steps(schedule: Schedule, num_steps: int) -> Float[np.ndarray, " s"]:
    """The published list for Stable Diffusion 1.5, log-linearly resampled to n steps.

    Sabour et al. 2024, 10 steps and their recipe for others; on another schedule these are
    the same timesteps, which nothing was optimised for.
    """
    scale = (schedule.num_timesteps - 1) / 999
    t = np.array(_ALIGN_YOUR_STEPS) * scale
    log_sigma = np.interp(
        t, np.arange(schedule.num_timesteps), np.log(_sigmas(schedule))
    )
    places = np.linspace(0, 1, num_steps)
    return np.exp(np.interp(places, np.linspace(0, 1, len(t)), log_sigma))


def _sigmas(schedule: Schedule) -> Float[np.ndarray, "T"]:
    """noise_scale / signal_scale; refuses a schedule that ends in pure noise."""
    if schedule.exact_signal_scales[-1] == 0:
        raise ValueError(
            "this schedule ends in pure noise, where sigma is infinite: choose a grid of "
            "timesteps such as trailing"
        )
    return schedule.exact_snr**-0.5


TIME_GRIDS: dict[str, Grid] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "time_uniform": time_uniform,
    "power": power,
    "ddim_uniform": ddim_uniform,
    "ddim_quad": ddim_quad,
}
SIGMA_GRIDS: dict[str, SigmaGrid] = {
    "karras": karras,
    "log_snr": log_snr,
    "align_your_steps": align_your_steps,
}
GRIDS = (*TIME_GRIDS, *SIGMA_GRIDS)


def make_levels(
    schedule: Schedule,
    num_steps: int | None = None,
    *,
    grid: str | Sequence[float] = "trailing",
    final: Literal["clean", "first"] = "clean",
) -> Level:
    """The noise levels of a run, `[s + 1]` float64 host arrays, noisiest first.

    Args:
      schedule: the noise levels the model was trained on.
      num_steps: s, exactly so for most grids; None for all T, or all of a list.
      grid: a name in `GRIDS`, or a list of timesteps of one's own.
      final: where the last step leads: `clean` data, or the `first` timestep's level, as
        in the reference: `grid="ddim_uniform", final="first"`. `karras` and `log_snr`
        then space s + 1 levels of which that is the last.

    Raises:
      ValueError: for an unknown name or an impossible number of steps.
    """
    if final not in ("clean", "first"):
        raise ValueError(f"final is {final!r}; choose 'clean' or 'first'")
    if not isinstance(grid, str):
        levels = schedule.level_at(_own_list(grid, schedule.num_timesteps, num_steps))
    else:
        num_steps = schedule.num_timesteps if num_steps is None else num_steps
        levels = _named(schedule, grid, num_steps)
        if final == "first" and grid in ("karras", "log_snr"):
            return _of_sigmas(schedule, grid, len(levels.t) + 1)
    first = schedule.level_at(np.zeros(1))
    last = {"clean": Level([0.0], [1.0], [0.0]), "first": first}[final]
    return Level(*(np.append(a, b) for a, b in zip(levels, last, strict=True)))


def from_strength(levels: Level, strength: float) -> Level:
    """The last part of a run, for image-to-image: 1 is all its steps, 0 none.

    Keeps `floor(strength * s)` of s steps. Start from data diffused to the first level
    that is left: `diffuse_to(plan.start, x0, noise)`. The number of steps is data of the
    plan, so every strength shares a program. The Stable Diffusion script diffuses one level
    further (to `levels` at `-2 - num_steps`) and fails at strength 1.

    Raises:
      ValueError: if strength is not in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: give a number from 0 to 1")
    num_steps = math.floor(round(strength * (len(levels.t) - 1), 6))  # 0.29 * 100 is 29
    return Level(*(values[-1 - num_steps :] for values in levels))


def _named(schedule: Schedule, name: str, num_steps: int) -> Level:
    if name not in GRIDS:
        raise ValueError(f"unknown grid {name!r}; choose one of {', '.join(GRIDS)}")
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise ValueError(
            f"{num_steps} sampling steps are impossible for a model of "
            f"{schedule.num_timesteps} timesteps; ask for 1 to {schedule.num_timesteps}"
        )
    if name in SIGMA_GRIDS:
        return _of_sigmas(schedule, name, num_steps)
    t = TIME_GRIDS[name](schedule.num_timesteps, num_steps)
    return schedule.level_at(t[::-1])


def _of_sigmas(schedule: Schedule, name: str, num_levels: int) -> Level:
    return schedule.level_of_sigma(SIGMA_GRIDS[name](schedule, num_levels))


def _own_list(
    grid: Sequence[float], num_timesteps: int, num_steps: int | None
) -> Float[np.ndarray, " s"]:
    t = np.sort(np.asarray(grid, np.float64))[::-1]
    if t.ndim != 1 or not t.size or t[0] > num_timesteps - 1 or t[-1] < 0:
        raise ValueError(
            f"a list of sampling timesteps must hold numbers from 0 to {num_timesteps - 1}"
        )
    if num_steps not in (None, len(t)):
        raise ValueError(
            f"num_steps={num_steps} but the list of timesteps has {len(t)}: leave "
            "num_steps out"
        )
    return t
