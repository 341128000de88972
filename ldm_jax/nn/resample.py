"""Changing the resolution of feature maps by a factor of two."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.nn.convolution import Conv, DoubledConv, Padding


def upsample_nearest(
    x: Float[Array, "b h w c"], factor: int = 2
) -> Float[Array, "b h2 w2 c"]:
    """Repeat every pixel `factor` times along both axes."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


def average_pool(
    x: Float[Array, "b h w c"], factor: int = 2
) -> Float[Array, "b h2 w2 c"]:
    """Mean of `factor` x `factor` blocks; a rest at the right or bottom is dropped."""
    b, h, w, c = x.shape
    h, w = h // factor, w // factor
    x = x[:, : h * factor, : w * factor].reshape(b, h, factor, w, factor, c)
    return x.mean((2, 4))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution that keeps the channels."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return DoubledConv(x.shape[-1], dtype=self.dtype, name="conv")(x)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 that keeps the channels.

    Attributes:
      padding: ((0, 1), (0, 1)) in the autoencoders (an odd size rounds down), 1 in the
        denoiser (an odd size rounds up), as in the original.
    """

    padding: int | Padding
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        conv = Conv(
            x.shape[-1], stride=2, padding=self.padding, dtype=self.dtype, name="conv"
        )
        return conv(x)
