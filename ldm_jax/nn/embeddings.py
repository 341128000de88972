"""Sinusoidal embeddings of scalars."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num


def timestep_embedding(
    t: Num[Array, "b"], dim: int, max_period: float = 10_000.0
) -> Float[Array, "b d"]:
    """float32 `[cos(t w_i), sin(t w_i)]` with `w_i = max_period ** (-i / half)`.

    `half = dim // 2` and i = 0 .. half-1 (so the lowest frequency is above
    1 / max_period); cosines come first; an odd `dim` ends in a zero column. `t` counts
    model timesteps, may be fractional, and is not rescaled.
    """
    half = dim // 2
    # float32 exponents, correctly rounded exponentials: the frequencies of the original
    # to the last bit. At t = 999 one bit of a frequency is 6e-5 of the embedding.
    exponents = np.float32(-np.log(max_period)) * np.arange(half, dtype=np.float32)
    exponents = exponents / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies  # [b half]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim - 2 * half)))
