"""A linear layer with torch's default initialisation."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from ldm_jax.nn import initializers
from ldm_jax.nn.placement import gathered


class Dense(nn.Module):
    """`[... c] -> [... features]`, parameters `kernel [c, features]` and `bias`.

    Attributes:
      features: output width.
      kernel_init, bias_init: default torch's uniform(+-1/sqrt(c)) for both.
      dtype: compute dtype; None follows the input and the parameters.
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer = initializers.uniform_kernel
    bias_init: Initializer | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        fan_in = x.shape[-1]
        shape = (fan_in, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            init = self.bias_init or initializers.uniform_bias(fan_in)
            bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = lax.dot_general(x, gathered(kernel), (((x.ndim - 1,), (0,)), ((), ())))
        return y if bias is None else y + bias
