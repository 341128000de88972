"""The resizing that each network was trained or published with."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def bilinear_tf1(
    pixels: UInt8[Array, "b h w 3"], size: int
) -> Float[Array, "b size size 3"]:
    """TensorFlow 1's `resize_bilinear`, to a square, in [0, 255].

    Pixel i of the output is interpolated at i * h / size: the corners are aligned, not
    the centres, and shrinking does not smooth. FID's network was published with it. The
    positions are rounded to float32 as TensorFlow and torch-fidelity do.
    """
    x = pixels.astype(jnp.float32)
    for axis in (2, 1):  # columns first, as the original
        low, high, part = _positions(x.shape[axis], size)
        part = part.reshape((-1,) + (1,) * (3 - axis))
        first = jnp.take(x, low, axis=axis)
        x = first + (jnp.take(x, high, axis=axis) - first) * part
    return x


def bicubic(
    pixels: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], height: int, width: int
) -> Float[Array, "b height width 3"]:
    """Pillow's bicubic: centres aligned, smoothing when it shrinks; not rounded.

    The result may leave [0, 255] beside edges, as Pillow's does for float images.
    """
    b, _, _, c = pixels.shape
    shape = (b, height, width, c)
    return jax.image.resize(pixels.astype(jnp.float32), shape, "cubic")


def bicubic_rounded(
    pixels: UInt8[Array, "b h w 3"], height: int, width: int
) -> Float[Array, "b height width 3"]:
    """Pillow's bicubic of 8-bit images: whole levels after the rows and the columns."""
    rows = _to_levels(bicubic(pixels, pixels.shape[1], width))
    return _to_levels(bicubic(rows, height, width))


def _to_levels(x: Array) -> Array:
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)


def _positions(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lower neighbour, upper neighbour, weight of the upper), each [size]."""
    position = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = position.astype(np.int32)
    high = np.minimum(low + 1, length - 1)
    return low, high, position - low.astype(np.float32)
