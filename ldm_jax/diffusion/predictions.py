"""What the network outputs (eps, x0 or v) and how to read it.

With a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), `x_t = a x0 + s eps`.
"""

import dataclasses
from typing import Protocol

from jaxtyping import Array, Float

from ldm_jax.diffusion.denoise import Denoised


class Target(Protocol):
    """The value that the network should output for a known (x0, eps)."""

    def __call__(self, x0: Array, eps: Array, a: Array, s: Array) -> Array: ...


class Reading(Protocol):
    """The (x0, eps) that the network's output means for a given x_t."""

    def __call__(self, output: Array, x_t: Array, a: Array, s: Array) -> Denoised: ...


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A parameterisation of the denoiser: a pair of inverse functions.

    Attributes:
      name: its key in `PREDICTIONS`.
      target: `(x0, eps, a, s) -> [b ...]`, the training target.
      read: `(output, x_t, a, s) -> Denoised`.
    """

    name: str
    target: Target
    read: Reading


def _read_eps(output, x_t, a, s) -> Denoised:
    return Denoised((x_t - s * output) / a, output)


def _read_x0(output, x_t, a, s) -> Denoised:
    return Denoised(output, (x_t - a * output) / s)


def v_target(
    x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], a: Array, s: Array
) -> Float[Array, "b ..."]:
    """v = a eps - s x0 (Salimans & Ho 2022, appendix D)."""
    return a * eps - s * x0


def _read_v(output, x_t, a, s) -> Denoised:
    return Denoised(a * x_t - s * output, s * x_t + a * output)


EPS = Prediction("eps", lambda x0, eps, a, s: eps, _read_eps)
X0 = Prediction("x0", lambda x0, eps, a, s: x0, _read_x0)
V = Prediction("v", v_target, _read_v)
