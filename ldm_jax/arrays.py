"""Array conventions shared by every module: shapes, ranges, pixels.

Images are NHWC float arrays in [-1, 1] everywhere inside the package; `pixels` always
means uint8 in [0, 255]. Latents are NHWC floats. Letters: see docs/notation.md.
"""

from typing import Any

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


def pixels_to_image(
    pixels: UInt8[Array, "*b h w c"] | UInt8[np.ndarray, "*b h w c"],
) -> Any:
    """uint8 pixels in [0, 255] -> float32 image in [-1, 1], as x / 127.5 - 1.

    The result is of the same shape and kind, host or device.
    """
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


def slerp(
    x: Float[Array, "b ..."],
    y: Float[Array, "b ..."],
    weight: Float[Array, "*b"] | float,
) -> Float[Array, "b ..."]:
    """Spherical interpolation of each example, from `x` (weight 0) to `y` (weight 1).

    Turns in the plane of the two vectors (Shoemake 1985; all axes but the first count as
    one), so between two standard normal noises the length stays that of noise. Where they
    are parallel, opposite or zero, no plane is given and it is linear. `weight` is a
    scalar or `[b]`. Differentiable everywhere.
    """
    axes = tuple(range(1, x.ndim))

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a.astype(jnp.float32) * b, axes, keepdims=True)

    product = dot(x, x) * dot(y, y)
    cosine = dot(x, y) / jnp.sqrt(jnp.where(product > 0, product, 1))
    has_plane = (product > 0) & (jnp.abs(cosine) < 1 - 1e-6)
    angle = jnp.arccos(jnp.where(has_plane, cosine, 0))
    weight = broadcast_to_rank(jnp.asarray(weight, jnp.float32), x.ndim)
    weights = (1 - weight, weight)
    of_x, of_y = (
        jnp.where(has_plane, jnp.sin(w * angle) / jnp.sin(angle), w) for w in weights
    )
    return (of_x * x + of_y * y).astype(x.dtype)


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
