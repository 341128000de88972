"""What a sampler sees of a model: `denoise_fn(x, level) -> Denoised(x0, eps)`.

Guidance, clipping and quantisation wrap a `DenoiseFn` before a sampler gets it. Wrappers
of x0 go outside those of guidance (see `ldm_jax.guidance`): what is clipped must be what
the sampler steps with.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.arrays import broadcast_to_rank
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


def diffuse_to(
    level: Level, x0: Float[Array, "b ..."], eps: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
    """x at a level of scalars: `signal_scale x0 + noise_scale eps`."""
    return level.signal_scale * x0 + level.noise_scale * eps


def map_x0(denoise_fn: DenoiseFn, fn: Callable[[Array], Array]) -> DenoiseFn:
    """Replace x0 by `fn(x0)` and eps by the noise that this x0 implies.

    See `replace_x0` for the reference's way. Samplers that read x0 alone (DDPM,
    DPM-Solver++) cannot tell the two apart.
    """

    def mapped(x, level):
        x0 = fn(denoise_fn(x, level).x0)
        return Denoised(x0, (x - level.signal_scale * x0) / level.noise_scale)

    return mapped


def replace_x0(denoise_fn: DenoiseFn, fn: Callable[[Array], Array]) -> DenoiseFn:
    """Replace x0 by `fn(x0)` and leave eps as it was.

    The reference's DDIM does so when it quantises; (x0, eps) then no longer explain x.
    """

    def replaced(x, level):
        x0, eps = denoise_fn(x, level)
        return Denoised(fn(x0), eps)

    return replaced


def clip_x0(denoise_fn: DenoiseFn, limit: float | Float[Array, ""] = 1.0) -> DenoiseFn:
    """Clip x0 to [-limit, limit]; for models of pixels, not of latents."""
    return map_x0(denoise_fn, lambda x0: jnp.clip(x0, -limit, limit))


def threshold_x0(
    denoise_fn: DenoiseFn,
    quantile: float | Float[Array, ""] = 0.995,
    limit: float | Float[Array, ""] = 1.0,
) -> DenoiseFn:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3); for models of pixels.

    Each example's x0 is clipped to [-q, q] and brought to [-limit, limit], q being the
    quantile of its own |x0|, at least `limit`. Where nothing exceeds `limit` nothing
    changes. Numbers may be traced.
    """
    return map_x0(denoise_fn, lambda x0: _threshold(x0, quantile, limit))


def _threshold(x0, quantile, limit):
    size = jnp.abs(x0.astype(jnp.float32)).reshape(x0.shape[0], -1)
    q = jnp.maximum(jnp.quantile(size, quantile, axis=1), limit)
    q = broadcast_to_rank(q, x0.ndim).astype(x0.dtype)
    return jnp.clip(x0, -q, q) * (limit / q).astype(x0.dtype)


def quantize_x0(
    denoise_fn: DenoiseFn,
    quantize: Callable[[Array], Array],
    latent_scale: float | Float[Array, ""] = 1.0,
) -> DenoiseFn:
    """Move x0 to the nearest codes of a VQ first stage.

    Args:
      denoise_fn: a denoiser of scaled latents.
      quantize: from unscaled latents `[b h w c]` to their codebook entries.
      latent_scale: what the model's latents were multiplied by.

    The reference (`quantize_denoised`) keeps eps and quantises the scaled latent, right
    only at scale 1: `replace_x0(denoise_fn, quantize)`.
    """
    return map_x0(denoise_fn, lambda x0: quantize(x0 / latent_scale) * latent_scale)
