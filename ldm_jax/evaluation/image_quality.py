"""How close a reconstruction is to its original."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def psnr(
    image: Float[Array, "b h w c"], reference: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio in dB of each picture, images in [-1, 1], peak 2.

    The mean over a set is the mean of these, as in the paper's first-stage tables.
    Identical pictures give about 126 dB instead of infinity.
    """
    difference = jnp.clip(image, -1, 1) - jnp.clip(reference, -1, 1)
    error = jnp.mean(difference.astype(jnp.float32) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(4 / jnp.maximum(error, 1e-12))
