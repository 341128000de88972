"""Guidance: wrappers from one `DenoiseFn` to another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.arrays import broadcast_to_rank
from ldm_jax.diffusion.denoise import DenoiseFn


def classifier_free(
    denoise_fn: DenoiseFn, guidance_scale: float | Float[Array, "*b"]
) -> DenoiseFn:
    """`uncond + guidance_scale * (cond - uncond)` (Ho & Salimans 2022, LDM's notation).

    Args:
      denoise_fn: a denoiser of 2b examples whose condition is bound as [uncond, cond] along
        the batch axis, as `conditioning.stack(uncond, cond)` does.
      guidance_scale: a scalar or one number for each example; 1 is no guidance. It may be
        traced, so changing it compiles nothing.

    Returns:
      A denoiser of b examples that calls `denoise_fn` once, on the doubled batch. x0 and
      eps are extrapolated alike and so still explain x.
    """

    def guided(x, level):
        doubled = denoise_fn(jnp.concatenate([x, x]), level)
        scale = broadcast_to_rank(jnp.asarray(guidance_scale, x.dtype), x.ndim)

        def extrapolate(both):
            uncond, cond = jnp.split(both, 2)
            return uncond + scale * (cond - uncond)

        return jax.tree.map(extrapolate, doubled)

    return guided
