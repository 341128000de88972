"""The residual block of the autoencoders (no time embedding)."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.normalization import GroupNorm


class ResnetBlock(nn.Module):
    """Twice (group norm, swish, 3x3 convolution), added to the input.

    The input passes a 1x1 `shortcut` if the channels change. Dropout, before the second
    convolution, is on exactly when a "dropout" stream is given to `apply`.
    """

    features: int
    num_groups: int = 32
    epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        def norm(name):
            return GroupNorm(self.num_groups, self.epsilon, self.dtype, name=name)

        def conv(name):
            return Conv(self.features, padding=1, dtype=self.dtype, name=name)

        h = conv("conv1")(nn.swish(norm("norm1")(x)))
        h = nn.swish(norm("norm2")(h))
        h = nn.Dropout(self.dropout_rate)(h, deterministic=not self.has_rng("dropout"))
        h = conv("conv2")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h
