"""What the network outputs (eps, x0, v or the velocity) and how to read it.

With a = signal_scale and s = noise_scale, `x_t = a x0 + s eps`: any two scales that are
not both 0. Where variance is preserved a^2 + s^2 = 1, in rectified flow a + s = 1. One
prediction is converted to another by `other.target(*one.read(output, x_t, a, s), a, s)`.
"""

import dataclasses
from typing import Any, Protocol

from jaxtyping import Array, Float

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import Schedule


class Target(Protocol):
    """The value that the network should output for a known (x0, eps); host arrays too."""

    def __call__(self, x0: Any, eps: Any, a: Any, s: Any) -> Any: ...


class Reading(Protocol):
    """The (x0, eps) that the network's output means for a given x_t."""

    def __call__(self, output: Array, x_t: Array, a: Array, s: Array) -> Denoised: ...


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A parameterisation of the denoiser: a pair of inverse functions.

    Attributes:
      name: its key in `PREDICTIONS`.
      target: `(x0, eps, a, s) -> [b ...]`, the training target; linear in (x0, eps).
      read: `(output, x_t, a, s) -> Denoised`. Exact for all levels but these: eps cannot be
        read without signal (a = 0), x0 not without noise (s = 0).
    """

    name: str
    target: Target
    read: Reading


def check_readable(prediction: Prediction, schedule: Schedule) -> None:
    """Refuse eps on a schedule that ends in pure noise: x0 = (x_t - s eps) / a.

    Raises:
      ValueError: one sentence.
    """
    if prediction.name == "eps" and schedule.exact_signal_scales[-1] == 0:
        raise ValueError(
            "the schedule ends in pure noise (zero terminal SNR), from which eps says "
            "nothing of the data: set config.diffusion.prediction to v, x0 or velocity"
        )


def v_target(
    x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], a: Array, s: Array
) -> Float[Array, "b ..."]:
    """v = a eps - s x0 (Salimans & Ho 2022, appendix D)."""
    return a * eps - s * x0


def velocity_target(
    x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], a: Array, s: Array
) -> Float[Array, "b ..."]:
    """u = eps - x0: in rectified flow dx / dtau (Liu et al. 2023; Esser et al. 2024)."""
    del a, s
    return eps - x0


def _read_eps(output, x_t, a, s) -> Denoised:
    return Denoised((x_t - s * output) / a, output)


def _read_x0(output, x_t, a, s) -> Denoised:
    return Denoised(output, (x_t - a * output) / s)


def _read_v(output, x_t, a, s) -> Denoised:
    norm = a**2 + s**2
    return Denoised((a * x_t - s * output) / norm, (s * x_t + a * output) / norm)


def _read_velocity(output, x_t, a, s) -> Denoised:
    norm = a + s
    return Denoised((x_t - s * output) / norm, (x_t + a * output) / norm)


EPS = Prediction("eps", lambda x0, eps, a, s: eps, _read_eps)
X0 = Prediction("x0", lambda x0, eps, a, s: x0, _read_x0)
V = Prediction("v", v_target, _read_v)
VELOCITY = Prediction("velocity", velocity_target, _read_velocity)
