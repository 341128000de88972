"""Noise schedules: how much signal is left at each of T discrete timesteps.

`q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)` for t = 0..T-1, where
`alpha_bar_t` is the cumulative product of `1 - beta` up to and including t (Ho et al.
2020, eq. 4). Index 0 is one noise step, not clean data.
"""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Float


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The constants of a discrete diffusion process.

    Every table is derived in float64 on the host and rounded once to float32, so
    `1 - alpha_bar` is exact near t = 0. A schedule is a static constant: functions
    under `jit` close over it, or take it as a (leafless) argument.

    Attributes:
      exact_betas: float64 `[T]`, each in (0, 1).

    Raises:
      ValueError: if the betas are not a non-empty vector of numbers in (0, 1).
    """

    exact_betas: Float[np.ndarray, "T"]

    def __post_init__(self):
        betas = np.asarray(self.exact_betas, np.float64)
        if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1)):
            raise ValueError(
                "a schedule needs a non-empty vector of betas strictly between 0 and 1,"
                f" not an array of shape {betas.shape}; change its beta range"
            )
        object.__setattr__(self, "exact_betas", betas)

    @property
    def num_timesteps(self) -> int:
        """T, the number of noise levels."""
        return self.exact_betas.size

    @functools.cached_property
    def exact_alphas_cumprod(self) -> Float[np.ndarray, "T"]:
        """alpha_bar in float64, for constants computed on the host."""
        return np.cumprod(1 - self.exact_betas)

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
        """sqrt(alpha_bar) in float32: the multiplier of x0 in x_t."""
        return np.sqrt(self.exact_alphas_cumprod).astype(np.float32)

    @functools.cached_property
    def noise_scales(self) -> Float[np.ndarray, "T"]:
        """sqrt(1 - alpha_bar) in float32: the multiplier of eps in x_t."""
        return np.sqrt(1 - self.exact_alphas_cumprod).astype(np.float32)

    @functools.cached_property
    def exact_snr(self) -> Float[np.ndarray, "T"]:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) in float64."""
        return self.exact_alphas_cumprod / (1 - self.exact_alphas_cumprod)


def linear(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Betas linear in sqrt(beta), then squared: what LDM and Stable Diffusion call linear."""
    return Schedule(np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2)


def cosine(num_timesteps: int = 1000, offset: float = 8e-3) -> Schedule:
    """alpha_bar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17), beta <= 0.999.

    `offset` is the paper's s.
    """
    time = np.arange(num_timesteps + 1) / num_timesteps + offset
    alpha_bar = np.cos(time / (1 + offset) * np.pi / 2) ** 2
    return Schedule(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def sqrt_linear(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Betas linear in beta (DDPM's own schedule); the reference names it sqrt_linear."""
    return Schedule(np.linspace(beta_start, beta_end, num_timesteps))


def sqrt(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Square roots of linearly spaced betas; the reference names it sqrt."""
    return Schedule(np.linspace(beta_start, beta_end, num_timesteps) ** 0.5)
