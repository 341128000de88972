"""What a sampler sees of a model: `denoise_fn(x, t) -> Denoised(x0, eps)`.

Guidance, clipping and quantisation wrap a `DenoiseFn` before a sampler gets it.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.process import scales_at
from ldm_jax.diffusion.schedules import Schedule


class Denoised(NamedTuple):
    """A model's belief about x_t, `x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps`.

    Attributes:
      x0: `[b ...]`, the clean data.
      eps: `[b ...]`, the noise of unit variance.
    """

    x0: Float[Array, "b ..."]
    eps: Float[Array, "b ..."]


class DenoiseFn(Protocol):
    """`x` is `[b ...]`, `t` the timesteps `[b]` as float32 in [0, T-1]."""

    def __call__(self, x: Float[Array, "b ..."], t: Float[Array, " b"]) -> Denoised: ...


def map_x0(
    denoise_fn: DenoiseFn, schedule: Schedule, fn: Callable[[Array], Array]
) -> DenoiseFn:
    """Replace x0 by `fn(x0)` and eps by the noise that this x0 implies.

    The reference leaves eps as it was in DDIM, so that its (x0, eps) no longer explain x.
    """

    def mapped(x, t):
        signal_scale, noise_scale = scales_at(schedule, t, x.ndim)
        x0 = fn(denoise_fn(x, t).x0)
        return Denoised(x0, (x - signal_scale * x0) / noise_scale)

    return mapped


def clip_x0(denoise_fn: DenoiseFn, schedule: Schedule, limit: float = 1.0) -> DenoiseFn:
    """Clip x0 to [-limit, limit]; for models of pixels, not of latents."""
    return map_x0(denoise_fn, schedule, lambda x0: jnp.clip(x0, -limit, limit))
