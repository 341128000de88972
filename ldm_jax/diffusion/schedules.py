"""Noise schedules: how much signal and noise there is at each of T discrete timesteps.

`x_t = signal_scale_t x_0 + noise_scale_t eps` for t = 0..T-1. Index 0 is one noise step,
not clean data. In a variance-preserving schedule, `signal_scale^2 = alpha_bar_t`, the
cumulative product of `1 - beta` up to and including t (Ho et al. 2020, eq. 4), and
`noise_scale^2 = 1 - alpha_bar_t`; in rectified flow the two scales themselves sum to one.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float


class Level(NamedTuple):
    """A noise level, `x = signal_scale x0 + noise_scale eps`, and the model's name for it.

    Samplers pass scalars; arrays of one shape stand for several levels.

    Attributes:
      t: timestep of the model in [0, T-1]; may lie between two.
      signal_scale: 1 for clean data, 0 for pure noise.
      noise_scale: 0 for clean data.
    """

    t: Any
    signal_scale: Any
    noise_scale: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The constants of a discrete diffusion process.

    Every table is derived in float64 on the host and rounded once to float32, so
    the noise is exact near t = 0. A schedule is a static constant: functions
    under `jit` close over it, or take it as a (leafless) argument.

    Attributes:
      exact_signal_scales: float64 `[T]`, falling, in (0, 1); the last may be 0 (no signal
        left: zero terminal SNR, rectified flow).
      power: `signal_scale^power + noise_scale^power = 1`: 2 preserves the variance, 1 is
        rectified flow.

    Raises:
      ValueError: if the scales are not such a vector.
    """

    exact_signal_scales: Float[np.ndarray, "T"]
    power: Literal[1, 2] = 2

    def __post_init__(self):
        scales = np.asarray(self.exact_signal_scales, np.float64)
        if (
            scales.ndim != 1
            or not scales.size
            or not np.all((scales[:-1] > 0) & (scales[:-1] < 1))
            or not 0 <= scales[-1] < 1
            or not np.all(np.diff(scales) < 0)
        ):
            raise ValueError(
                "a schedule needs a non-empty vector of falling signal scales between 1 "
                f"and 0, not an array of shape {scales.shape}; change its beta range"
            )
        object.__setattr__(self, "exact_signal_scales", scales)

    @property
    def num_timesteps(self) -> int:
        """T, the number of noise levels."""
        return self.exact_signal_scales.size

    @functools.cached_property
    def exact_noise_scales(self) -> Float[np.ndarray, "T"]:
        """The multiplier of eps in float64."""
        return self._noise_scale(self.exact_signal_scales)

    @functools.cached_property
    def exact_alphas_cumprod(self) -> Float[np.ndarray, "T"]:
        """alpha_bar in float64, for constants computed on the host."""
        return self.exact_signal_scales**2

    @functools.cached_property
    def exact_betas(self) -> Float[np.ndarray, "T"]:
        """beta in float64, 1 where no signal is left; of variance-preserving schedules."""
        previous = np.append(1.0, self.exact_alphas_cumprod[:-1])
        return 1 - self.exact_alphas_cumprod / previous

    @functools.cached_property
    def betas(self) -> Float[np.ndarray, "T"]:
        """beta in float32."""
        return self.exact_betas.astype(np.float32)

    @functools.cached_property
    def alphas_cumprod(self) -> Float[np.ndarray, "T"]:
        """alpha_bar in float32."""
        return self.exact_alphas_cumprod.astype(np.float32)

    @functools.cached_property
    def signal_scales(self) -> Float[np.ndarray, "T"]:
        """The multiplier of x0 in x_t, in float32: sqrt(alpha_bar)."""
        return self.exact_signal_scales.astype(np.float32)

    @functools.cached_property
    def noise_scales(self) -> Float[np.ndarray, "T"]:
        """The multiplier of eps in x_t, in float32: sqrt(1 - alpha_bar)."""
        return self.exact_noise_scales.astype(np.float32)

    @functools.cached_property
    def exact_snr(self) -> Float[np.ndarray, "T"]:
        """Signal-to-noise ratio, signal_scale^2 / noise_scale^2, in float64; may end in 0."""
        return (self.exact_signal_scales / self.exact_noise_scales) ** 2

    def level_at(self, t: Float[np.ndarray, "..."]) -> Level:
        """The levels at timesteps, float64 host arrays; between two by interpolation.

        log(signal_scale) is linear in t where variance is preserved (as in DPM-Solver),
        signal_scale itself in rectified flow and before a last level without signal.
        """
        t = np.asarray(t, np.float64)
        table, last = self.exact_signal_scales, self.num_timesteps - 1
        whole, steps = np.rint(t).astype(np.int64), np.arange(last + 1)
        signal_scale = np.interp(t, steps, table)
        if self.power == 2:
            tiny = np.finfo(np.float64).tiny  # a last scale of 0 has no logarithm
            curved = np.exp(np.interp(t, steps, np.log(np.maximum(table, tiny))))
            is_line = (t > last - 1) & (table[-1] == 0)
            signal_scale = np.where(is_line, signal_scale, curved)
        signal_scale = np.where(t == whole, table[whole], signal_scale)
        return Level(t, signal_scale, self._noise_scale(signal_scale))

    def level_of_sigma(self, sigma: Float[np.ndarray, "..."]) -> Level:
        """The levels whose noise_scale / signal_scale is `sigma` (Karras et al. 2022).

        t stays within [0, T-1]. It is found by interpolation in log(sigma) as in
        k-diffusion; by that of `level_at` in rectified flow and before a last level
        without signal. An infinite sigma is pure noise.
        """
        sigma = np.asarray(sigma, np.float64)
        with np.errstate(divide="ignore"):
            signal_scale = (1 + sigma**self.power) ** (-1 / self.power)
            noise_scale = (1 + sigma**-self.power) ** (-1 / self.power)
            log_sigma, table = np.log(sigma), -0.5 * np.log(self.exact_snr)
        steps, scales = np.arange(self.num_timesteps), self.exact_signal_scales
        t = np.interp(signal_scale, scales[::-1], steps[::-1])
        if self.power == 2:
            is_line = (scales[-1] == 0) & (signal_scale < scales[-2:][0])
            t = np.where(is_line, t, np.interp(log_sigma, table, steps))
        return Level(t, signal_scale, noise_scale)

    def _noise_scale(self, signal_scale: np.ndarray) -> np.ndarray:
        return (1 - signal_scale**self.power) ** (1 / self.power)


def from_betas(betas: Float[np.ndarray, "T"]) -> Schedule:
    """The variance-preserving schedule of T noise increments.

    Raises:
      ValueError: if they are not a vector of numbers in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            "a schedule needs a non-empty vector of betas strictly between 0 and 1,"
            f" not an array of shape {betas.shape}; change its beta range"
        )
    return Schedule(np.sqrt(np.cumprod(1 - betas)))


def linear(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Betas linear in sqrt(beta), then squared: what LDM and Stable Diffusion call linear."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2)


def cosine(num_timesteps: int = 1000, offset: float = 8e-3) -> Schedule:
    """alpha_bar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17), beta <= 0.999.

    `offset` is the paper's s.
    """
    time = np.arange(num_timesteps + 1) / num_timesteps + offset
    alpha_bar = np.cos(time / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def sqrt_linear(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Betas linear in beta (DDPM's own schedule); the reference names it sqrt_linear."""
    return from_betas(np.linspace(beta_start, beta_end, num_timesteps))


def sqrt(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Square roots of linearly spaced betas; the reference names it sqrt."""
    return from_betas(np.linspace(beta_start, beta_end, num_timesteps) ** 0.5)


def rectified_flow(num_timesteps: int = 1000, shift: float = 1.0) -> Schedule:
    """`x_t = (1 - tau) x0 + tau eps` at tau = (t + 1) / T (Liu et al. 2023).

    The last level is pure noise. `shift` multiplies every noise_scale / signal_scale:
    `tau' = shift tau / (1 + (shift - 1) tau)` (Esser et al. 2024, eq. 23), the square
    root of the ratio of resolutions; 3 in Stable Diffusion 3. The model's t stays that of
    tau, whereas Stable Diffusion 3 is told `1000 tau'`.

    Raises:
      ValueError: if `shift` is not positive.
    """
    if not shift > 0:
        raise ValueError(f"the schedule's shift is {shift}: give a positive number")
    tau = np.arange(1, num_timesteps + 1) / num_timesteps
    return Schedule((1 - tau) / (1 + (shift - 1) * tau), power=1)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule without signal at T-1 (Lin et al. 2024, algorithm 1).

    Signal scales are shifted down so that the last is 0, then stretched so that the first
    stays. Needs a prediction that can be read from pure noise: x0, v or velocity.

    Raises:
      ValueError: for a schedule of one timestep.
    """
    scales = schedule.exact_signal_scales
    if len(scales) < 2:
        raise ValueError("zero terminal SNR needs a schedule of at least two timesteps")
    first, last = scales[0], scales[-1]
    rescaled = (scales - last) * first / (first - last)
    return Schedule(np.append(first, rescaled[1:]), schedule.power)
