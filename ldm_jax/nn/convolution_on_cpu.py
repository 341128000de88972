"""A convolution and its gradients as XLA's CPU backend computes them fastest.

Every function is the same sum as `lax.conv_general_dilated` and its derivatives, NHWC x
HWIO -> NHWC, with its terms in another order. Which of several forms is the fastest
depends on the shape; the figures are in BENCHMARKS.md.
"""

import itertools
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]

# From this batch size on, a convolution that sums over the batch is the fastest.
_MIN_BATCH_OF_CORRELATION = 4
# Up to this size all windows of an array are laid side by side for one product.
_MAX_WINDOWS_BYTES = 2**24
# Copying windows costs more than it gains for fewer channels.
_MIN_CHANNELS = 48
_MIN_CHANNELS_OF_LARGE = 192


def has_fewer_pixels_than_channels(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"]
) -> bool:
    """Whether `product` is faster than a convolution: few rows, a large kernel."""
    return math.prod(x.shape[:3]) < min(kernel.shape[2:])


def product(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    stride: int,
    padding: Padding,
) -> Float[Array, "b h2 w2 d"]:
    """The convolution as one product of all windows and the kernel."""
    windows = jnp.concatenate(
        _windows(x, (kernel.shape[0], kernel.shape[1]), stride, padding), axis=-1
    )
    out = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return out.reshape(*windows.shape[:3], -1)


def input_gradient(
    kernel: Float[Array, "kh kw c d"],
    g: Float[Array, "b h2 w2 d"],
    size: tuple[int, int],
    stride: int,
    padding: Padding,
) -> Float[Array, "b h w c"]:
    """Each output pixel's gradient, spread over the window that it was computed from."""
    if has_fewer_pixels_than_channels(g, kernel):
        return _spread_product(kernel, g, size, stride, padding)
    full = []
    for axis in (0, 1):
        low = kernel.shape[axis] - 1 - padding[axis][0]
        spread = (g.shape[1 + axis] - 1) * stride
        full.append((low, size[axis] - 1 - spread + padding[axis][0]))
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)  # [kh kw d c]
    return lax.conv_general_dilated(
        g,
        flipped,
        (1, 1),
        full,
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def kernel_gradient(
    x: Float[Array, "b h w c"],
    g: Float[Array, "b h2 w2 d"],
    size: tuple[int, int],
    stride: int,
    padding: Padding,
) -> Float[Array, "kh kw c d"]:
    """The input's windows times the output's gradient, summed over all pixels."""
    c, d, pixels = x.shape[-1], g.shape[-1], math.prod(g.shape[:3])
    is_pointwise = math.prod(size) == 1  # one product as it is
    if not is_pointwise and len(x) >= _MIN_BATCH_OF_CORRELATION:
        return _correlation(x, g, size, stride, padding)
    # The narrower one is copied for every offset. Equally wide, windows of x need no
    # transposition of the result, which counts if the kernel is large.
    copies_g = stride == 1 and (d < c or (d == c and pixels > c))
    copied = d if copies_g else c
    windows_bytes = x.dtype.itemsize * math.prod(size) * pixels * copied
    at_once = windows_bytes <= _MAX_WINDOWS_BYTES and max(c, d) >= _MIN_CHANNELS
    if not is_pointwise and not at_once and copied < _MIN_CHANNELS_OF_LARGE:
        return _correlation(x, g, size, stride, padding)
    if copies_g:
        # The window of x at offset i meets g where the window of g at -i meets x.
        mirrored = _mirrored(size, x.shape[1:3], g.shape[1:3], padding)
        windows = _windows(g, size, 1, mirrored)[::-1]
    else:
        windows = _windows(x, size, stride, padding)
    if not at_once:
        products = [
            _summed_over_rows(x, window) if copies_g else _summed_over_rows(window, g)
            for window in windows
        ]
        return jnp.stack(products).reshape(*size, c, d)
    together = jnp.concatenate(windows, axis=-1)
    if copies_g:
        by_channel = _summed_over_rows(x, together)  # [c kh*kw*d]
        return by_channel.reshape(c, *size, d).transpose(1, 2, 0, 3)
    return _summed_over_rows(together, g).reshape(*size, c, d)


def _windows(
    x: Array, size: tuple[int, int], stride: int, padding: Padding
) -> list[Array]:
    """For each place in the window, the pixels of x that lie there, `[b h2 w2 c]`."""
    padded = _padded(x, padding)
    last = [padded.shape[1 + axis] - size[axis] for axis in (0, 1)]
    return [
        padded[:, i : i + last[0] + 1 : stride, j : j + last[1] + 1 : stride]
        for i, j in itertools.product(*map(range, size))
    ]


def _mirrored(
    size: tuple[int, int],
    size_of_x: tuple[int, ...],
    size_of_g: tuple[int, ...],
    padding: Padding,
) -> Padding:
    """Padding of g for windows that are as large as x."""
    low = [size[axis] - 1 - padding[axis][0] for axis in (0, 1)]
    high = [size_of_x[axis] - size_of_g[axis] + padding[axis][0] for axis in (0, 1)]
    return (low[0], high[0]), (low[1], high[1])


def _padded(x: Array, padding: Padding) -> Array:
    """Zeros around the maps; negative padding crops."""
    widths = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def _summed_over_rows(a: Array, b: Array) -> Array:
    """`a^T b` of `[... m]` and `[... n]`."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _correlation(x, g, size, stride, padding):
    """The input correlated with the output's gradient; the batch is what is summed."""
    window = []
    for axis in (0, 1):
        low = padding[axis][0]
        reach = (g.shape[1 + axis] - 1) * stride + size[axis]
        window.append((low, reach - x.shape[1 + axis] - low))
    correlation = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # [c h w b]
        g.transpose(1, 2, 0, 3),  # [h2 w2 b d]
        (1, 1),
        window,
        rhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return correlation.transpose(1, 2, 0, 3)  # [c kh kw d] -> [kh kw c d]


def _spread_product(kernel, g, size, stride, padding):
    """One product with the kernel as it lies in memory, its columns spread and added."""
    kh, kw, c, d = kernel.shape
    b, h2, w2, _ = g.shape
    by_offset = lax.dot_general(
        g.reshape(-1, d), kernel.reshape(-1, d), (((1,), (1,)), ((), ()))
    ).reshape(b, h2, w2, kh * kw, c)
    total = jnp.zeros((b, *size, c), g.dtype)
    for index, offsets in enumerate(itertools.product(range(kh), range(kw))):
        widths = []
        for axis, offset in enumerate(offsets):
            low = offset - padding[axis][0]
            reach = (g.shape[1 + axis] - 1) * stride + 1
            widths.append((low, size[axis] - low - reach, stride - 1))
        spread = [(0, 0, 0), *widths, (0, 0, 0)]
        zero = jnp.zeros((), g.dtype)
        total += lax.pad(by_offset[:, :, :, index], zero, spread)
    return total
