"""What a sampler sees of a model: `denoise_fn(x, level) -> Denoised(x0, eps)`.

Guidance, clipping and quantisation wrap a `DenoiseFn` before a sampler gets it.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.schedules import Level


class Denoised(NamedTuple):
    """A model's belief about x at a level, `x = signal_scale x0 + noise_scale eps`.

    Attributes:
      x0: `[b ...]`, the clean data.
      eps: `[b ...]`, the noise of unit variance.
    """

    x0: Float[Array, "b ..."]
    eps: Float[Array, "b ..."]


class DenoiseFn(Protocol):
    """`x` is `[b ...]`; `level` holds float32 scalars, the same for all examples."""

    def __call__(self, x: Float[Array, "b ..."], level: Level) -> Denoised: ...


def map_x0(denoise_fn: DenoiseFn, fn: Callable[[Array], Array]) -> DenoiseFn:
    """Replace x0 by `fn(x0)` and eps by the noise that this x0 implies.

    The reference leaves eps as it was in DDIM, so that its (x0, eps) no longer explain x.
    """

    def mapped(x, level):
        x0 = fn(denoise_fn(x, level).x0)
        return Denoised(x0, (x - level.signal_scale * x0) / level.noise_scale)

    return mapped


def clip_x0(denoise_fn: DenoiseFn, limit: float = 1.0) -> DenoiseFn:
    """Clip x0 to [-limit, limit]; for models of pixels, not of latents."""
    return map_x0(denoise_fn, lambda x0: jnp.clip(x0, -limit, limit))
