"""Group normalisation with float32 statistics."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def group_moments(
    x: Float[Array, "b *s c"], num_groups: int
) -> tuple[Float[Array, "b *s c"], Float[Array, "b *s c"]]:
    """float32 mean and variance of each channel's group and example, `[b 1 ... 1 c]`.

    float32 inputs take two passes, so that a large mean does not cancel the variance.
    In half precision one pass suffices, which also spares the gradient one: what
    E[x^2] - E[x]^2 loses in float32 is less than the inputs lost when they were rounded.
    Space is reduced before channels: the fast order for channels-last memory.
    """
    space = tuple(range(1, x.ndim - 1))

    def mean(values):
        by_channel = values.mean(space)  # [b c]
        by_group = by_channel.reshape(len(x), num_groups, -1).mean(-1, keepdims=True)
        repeated = jnp.broadcast_to(by_group, (*by_group.shape[:2], c // num_groups))
        return repeated.reshape(len(x), *(1 for _ in space), c)

    c = x.shape[-1]
    x32 = x.astype(jnp.float32)
    mu = mean(x32)
    if x.dtype in (jnp.bfloat16, jnp.float16):
        return mu, jnp.maximum(mean(jnp.square(x32)) - jnp.square(mu), 0)
    return mu, mean(jnp.square(x32 - mu))


class GroupNorm(nn.Module):
    """Normalise each group of channels over space: `[b ... c] -> [b ... c]`.

    Statistics and the affine map are float32 whatever the compute dtype; the result is
    cast to `dtype` (None: the input's). Wu & He 2018, arXiv:1803.08494.

    Attributes:
      epsilon: 1e-6 in the autoencoders and the spatial transformer, 1e-5 elsewhere in
        the U-Net.

    Raises:
      ValueError: if `num_groups` does not divide the channels.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        c = x.shape[-1]
        if c % self.num_groups:
            raise ValueError(
                f"{self.name or 'GroupNorm'} cannot split {c} channels into "
                f"{self.num_groups} groups: make every width a multiple of num_groups "
                "or set a smaller num_groups"
            )
        scale = self.param("scale", nn.initializers.ones, (c,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), self.param_dtype)
        mu, variance = group_moments(x, self.num_groups)
        y = (x.astype(jnp.float32) - mu) * (
            lax.rsqrt(variance + self.epsilon) * scale
        ) + bias
        return y.astype(self.dtype or x.dtype)
