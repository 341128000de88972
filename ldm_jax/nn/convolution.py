"""Two-dimensional convolution with explicit padding and torch's initialisation.

On the CPU it has its own programs. XLA's CPU backend runs a convolution on its fast
kernels only in the layout NHWC x HWIO -> NHWC. The gradients that autodiff writes have
permuted layouts; in straight-line code XLA transposes them into shape, inside a loop
(gradient accumulation, say) it falls back to naive code that is 10 to 100 times slower.
`convolution_on_cpu` has the same sums in the fast layout, or as products of matrices.
What a program traced on a CPU for another platform gets is autodiff's gradient.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from ldm_jax.nn import convolution_on_cpu as on_cpu
from ldm_jax.nn import initializers
from ldm_jax.nn.convolution_on_cpu import Padding
from ldm_jax.nn.placement import gathered, platform

_plain_convolution = functools.partial(
    lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    *,
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation with zero padding (low, high) for the two spatial axes.

    On the CPU backend it has reverse-mode derivatives, of any order, but no `jax.jvp`.
    """
    return _convolution(x, gathered(kernel), stride, padding)


def convolve_doubled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """`convolve` with padding 1, of `x` with every pixel repeated along both axes.

    Two of the kernel's three rows, and of its columns, meet the same pixel of `x`, which
    two depends on whether an output is even or odd. So the outputs of each kind are a
    convolution of `x` itself with a 2x2 kernel of their sums: 16 products for four
    outputs instead of 36, and no repeated picture in memory.
    """
    b, h, w, _ = x.shape
    halves = _sums_of_two(gathered(kernel), axis=0)
    outputs = [
        _convolution(x, quarter, 1, ((1 - row, row), (1 - column, column)))
        for row, half in enumerate(halves)
        for column, quarter in enumerate(_sums_of_two(half, axis=1))
    ]
    y = jnp.stack(outputs).reshape(2, 2, b, h, w, -1)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(b, 2 * h, 2 * w, -1)


def _sums_of_two(kernel: Array, axis: int) -> tuple[Array, Array]:
    """The two taps of even outputs, for the pixel before and their own, and of odd ones."""
    first, middle, last = jnp.split(kernel.astype(jnp.float32), 3, axis)
    even = jnp.concatenate((first, middle + last), axis)
    odd = jnp.concatenate((first + middle, last), axis)
    return even.astype(kernel.dtype), odd.astype(kernel.dtype)


def _convolution(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    if platform() == "cpu":
        return _cpu_convolution(x, kernel, stride, padding)
    return _plain_convolution(x, kernel, (stride, stride), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cpu_convolution(x, kernel, stride, padding):
    def as_it_is(x, kernel):
        return _plain_convolution(x, kernel, (stride, stride), padding)

    if not on_cpu.has_fewer_pixels_than_channels(x, kernel):
        # Plain, so that policies of rematerialisation know it for a convolution.
        return as_it_is(x, kernel)
    fast_on_cpu = functools.partial(on_cpu.product, stride=stride, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=fast_on_cpu, default=as_it_is)


def _forward(x, kernel, stride, padding):
    return _cpu_convolution(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, g):
    def fast_on_cpu(x, kernel, g):
        return (
            on_cpu.input_gradient(kernel, g, x.shape[1:3], stride, padding),
            on_cpu.kernel_gradient(x, g, kernel.shape[:2], stride, padding),
        )

    def autodiff(x, kernel, g):
        strides = (stride, stride)
        _, pullback = jax.vjp(
            lambda x, kernel: _plain_convolution(x, kernel, strides, padding), x, kernel
        )
        return pullback(g)

    x, kernel = residuals
    return lax.platform_dependent(x, kernel, g, cpu=fast_on_cpu, default=autodiff)


_cpu_convolution.defvjp(_forward, _backward)


class Conv(nn.Module):
    """Square 2-d convolution, parameters `kernel [kh, kw, c, features]` and `bias`.

    Attributes:
      features: output channels.
      kernel_size, stride: of both spatial axes.
      padding: zeros on every side, or ((top, bottom), (left, right)).
      kernel_init, bias_init: default torch's uniform(+-1/sqrt(fan_in)) for both.
      dtype: compute dtype; None follows the input and the parameters.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | Padding = 0
    use_bias: bool = True
    kernel_init: Initializer = initializers.uniform_kernel
    bias_init: Initializer | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            init = self.bias_init or initializers.uniform_bias(math.prod(shape[:-1]))
            bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = self.padding
        if isinstance(padding, int):
            padding = ((padding, padding), (padding, padding))
        y = self._convolve(x, kernel, padding)
        return y if bias is None else y + bias

    def _convolve(self, x: Array, kernel: Array, padding: Padding) -> Array:
        return convolve(x, kernel, stride=self.stride, padding=padding)


class DoubledConv(Conv):
    """A 3x3 convolution of its input with every pixel repeated along both axes.

    `Conv(features, padding=1)(upsample_nearest(x))`, for half the work; see
    `convolve_doubled`.
    """

    def _convolve(self, x: Array, kernel: Array, padding: Padding) -> Array:
        del padding
        return convolve_doubled(x, kernel)
