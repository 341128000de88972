"""Residual block and time embedding of the denoiser U-Net."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.embeddings import timestep_embedding
from ldm_jax.nn.normalization import GroupNorm
from ldm_jax.nn.resample import average_pool, upsample_nearest

Direction = Literal["none", "down", "up"]
TimeConditioning = Literal["add", "film"]

_ZEROS = nn.initializers.zeros_init()


class TimeEmbedding(nn.Module):
    """Sinusoids of the timestep through a two-layer perceptron.

    Attributes:
      dim: number of sinusoid channels (the U-Net's `model_channels`); output is 4 * dim.
    """

    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: Float[Array, " b"]) -> Float[Array, "b d"]:
        """Timesteps, whole or fractional (0..T-1) -> embedding before activation."""
        h = timestep_embedding(t, self.dim)
        h = Dense(4 * self.dim, dtype=self.dtype, name="dense_0")(h)
        return Dense(4 * self.dim, dtype=self.dtype, name="dense_1")(nn.silu(h))


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, time embedding, norm, SiLU, dropout, conv; plus the shortcut.

    The last convolution starts at zero, so that a new block is its shortcut.

    Attributes:
      features: output channels.
      time_conditioning: "add" adds a projection of the time embedding before the second
        norm; "film" scales and shifts after it: norm(h) * (1 + scale) + shift, scale
        being the first half of the projection.
      resample: "down" averages 2x2 and "up" repeats pixels, h and shortcut alike, after
        the first activation.
    """

    features: int
    time_conditioning: TimeConditioning = "add"
    resample: Direction = "none"
    dropout: float = 0.0
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b d"], train: bool
    ) -> Float[Array, "b h2 w2 c2"]:
        """`emb` is the activated time embedding."""
        h = nn.silu(self._norm("norm1")(x))
        h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = self._conv("conv1")(h)
        h = self._conditioned(h, emb)
        h = nn.Dropout(self.dropout)(nn.silu(h), deterministic=not train)
        h = self._conv("conv2", kernel_init=_ZEROS, bias_init=_ZEROS)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="shortcut")(x)
        return x + h

    def _conditioned(self, h: jax.Array, emb: jax.Array) -> jax.Array:
        film = self.time_conditioning == "film"
        width = self.features * (2 if film else 1)
        projected = Dense(width, dtype=self.dtype, name="time_proj")(emb)
        projected = projected[:, None, None]  # [b 1 1 c]
        norm2 = self._norm("norm2")
        if not film:
            return norm2(h + projected)
        scale, shift = jnp.split(projected, 2, axis=-1)
        return norm2(h) * (1 + scale) + shift

    def _norm(self, name: str) -> nn.Module:
        return GroupNorm(self.num_groups, epsilon=1e-5, dtype=self.dtype, name=name)

    def _conv(self, name: str, **init: Any) -> nn.Module:
        return Conv(self.features, padding=1, dtype=self.dtype, name=name, **init)


def resampled(x: jax.Array, direction: Direction) -> jax.Array:
    """`x` on half the grid, twice the grid, or as it is."""
    if direction == "down":
        return average_pool(x)
    return upsample_nearest(x) if direction == "up" else x
