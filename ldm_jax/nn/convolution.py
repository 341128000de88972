"""Two-dimensional convolution with explicit padding and torch's initialisation."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from ldm_jax.nn import initializers

Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    *,
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation with zero padding (low, high) for the two spatial axes."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


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
