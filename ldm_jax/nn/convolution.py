"""Two-dimensional convolution with explicit padding and torch's initialisation.

On the CPU it has its own gradient. XLA's CPU backend runs a convolution on its fast
kernels only in the layout NHWC x HWIO -> NHWC. The gradients that autodiff writes have
permuted layouts; in straight-line code XLA transposes them into shape, inside a loop
(gradient accumulation, say) it falls back to naive code that is 10 to 100 times slower.
`_input_gradient` and `_kernel_gradient` are the same sums written in the fast layout.
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

from ldm_jax.nn import initializers
from ldm_jax.nn.placement import gathered, platform

Padding = tuple[tuple[int, int], tuple[int, int]]

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
    kernel = gathered(kernel)
    if platform() == "cpu":
        return _cpu_convolution(x, kernel, stride, padding)
    return _plain_convolution(x, kernel, (stride, stride), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cpu_convolution(x, kernel, stride, padding):
    return _plain_convolution(x, kernel, (stride, stride), padding)


def _forward(x, kernel, stride, padding):
    # Plain, so that policies of rematerialisation know it for a convolution.
    return _plain_convolution(x, kernel, (stride, stride), padding), (x, kernel)


def _backward(stride, padding, residuals, g):
    def fast_on_cpu(x, kernel, g):
        return (
            _input_gradient(kernel, g, x.shape[1:3], stride, padding),
            _kernel_gradient(x, g, kernel.shape[:2], stride, padding),
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


def _input_gradient(kernel, g, size, stride, padding):
    """Each output pixel's gradient, spread over the window that it was computed from."""
    full = []
    for axis in (0, 1):
        low = kernel.shape[axis] - 1 - padding[axis][0]
        spread = (g.shape[1 + axis] - 1) * stride
        full.append((low, size[axis] - 1 - spread + padding[axis][0]))
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)  # [kh kw d c]
    return _plain_convolution(g, flipped, (1, 1), full, lhs_dilation=(stride, stride))


def _kernel_gradient(x, g, size, stride, padding):
    """The input correlated with the output's gradient; the batch is what is summed."""
    window = []
    for axis in (0, 1):
        low = padding[axis][0]
        reach = (g.shape[1 + axis] - 1) * stride + size[axis]
        window.append((low, reach - x.shape[1 + axis] - low))
    correlation = _plain_convolution(
        x.transpose(3, 1, 2, 0),  # [c h w b]
        g.transpose(1, 2, 0, 3),  # [h2 w2 b d]
        (1, 1),
        window,
        rhs_dilation=(stride, stride),
    )
    return correlation.transpose(1, 2, 0, 3)  # [c kh kw d] -> [kh kw c d]


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
        y = convolve(x, kernel, stride=self.stride, padding=padding)
        return y if bias is None else y + bias
