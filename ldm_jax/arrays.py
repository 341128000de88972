"""Array conventions shared by every module: shapes, ranges, pixels.

Images are NHWC float arrays in [-1, 1] everywhere inside the package; `pixels` always
means uint8 in [0, 255]. Latents are NHWC floats. Letters: see docs/notation.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def broadcast_to_rank(x: Array, rank: int) -> Array:
    """Append axes of size one: `[b]` -> `[b, 1, ..., 1]` with `rank` dimensions.

    Raises:
      ValueError: if `x` already has more than `rank` dimensions.
    """
    if x.ndim > rank:
        raise ValueError(f"cannot broadcast an array of rank {x.ndim} to rank {rank}")
    return x.reshape(x.shape + (1,) * (rank - x.ndim))


def pixels_to_image(pixels: UInt8[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """uint8 pixels in [0, 255] -> float32 image in [-1, 1], as x / 127.5 - 1."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def image_to_pixels(image: Float[Array, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """Float image in [-1, 1] -> uint8 pixels, clipped and rounded to nearest.

    The original scripts truncate instead, `floor((image + 1) * 127.5)`, a mean shift of
    half a grey level.
    """
    unit = jnp.clip((jnp.asarray(image, jnp.float32) + 1) / 2, 0, 1)
    return jnp.round(unit * 255).astype(jnp.uint8)


def normal_like(key: jax.Array, x: Array) -> Array:
    """Standard normal noise with the shape and dtype of `x`.

    `key` is one key, or `[b]` of them: then each example's noise comes from its own and
    does not depend on the size of the batch.
    """
    if key.ndim == 0:
        return jax.random.normal(key, x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(key)


def image_grid(
    pixels: UInt8[np.ndarray, "b h w c"], columns: int, gap: int = 2
) -> UInt8[np.ndarray, "H W c"]:
    """Tile pictures row by row on light grey; an incomplete last row is left grey."""
    b, h, w, c = pixels.shape
    rows = -(-b // columns)
    grid = np.full(
        (rows * (h + gap) + gap, columns * (w + gap) + gap, c), 224, np.uint8
    )
    for i, picture in enumerate(np.asarray(pixels)):
        top = gap + (i // columns) * (h + gap)
        left = gap + (i % columns) * (w + gap)
        grid[top : top + h, left : left + w] = picture
    return grid
