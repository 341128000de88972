"""Spatial conditioning by a label map, brought to the latent grid."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.resample import average_pool


class SpatialRescaler(nn.Module):
    """One-hot labels, halved `num_stages` times, mixed to a few channels.

    The published semantic synthesis models (the reference's SpatialRescaler). There a
    stage is a bilinear resize by 0.5 without antialiasing; its sample points fall in the
    middle of four pixels, so that a stage is the mean of 2x2 blocks.

    Attributes:
      num_classes: labels are 0..num_classes-1; any other, such as 255, has no class:
        zeros.
      out_channels: channels joined to the noisy latent.
      num_stages: halvings; 2^num_stages must be the first stage's downsampling factor.
      field: the batch field of the map: labels int [b, H, W], or the share of each class
        in every pixel, float [b, H, W, num_classes].
      dtype: of the output.
    """

    num_classes: int
    out_channels: int = 3
    num_stages: int = 2
    field: str = "segmentation"
    dtype: Any = jnp.float32

    has_null = False

    @property
    def fields(self) -> tuple[str, ...]:
        """`(field,)`."""
        return (self.field,)

    @nn.compact
    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """Condition of `batch[field]`; see `Conditioner`."""
        del train
        x = take_field(batch, self.field)
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = jax.nn.one_hot(x, self.num_classes, dtype=self.dtype)  # [b H W n]
        if x.ndim != 4 or x.shape[-1] != self.num_classes:
            raise ValueError(
                f"the label map {self.field!r} has shape {x.shape}; it must be int "
                f"[b, H, W], or float with conditioner.num_classes={self.num_classes} "
                "channels"
            )
        x = average_pool(x, 2**self.num_stages)  # [b H W n] -> [b h w n]
        mapper = Dense(
            self.out_channels, use_bias=False, dtype=self.dtype, name="channel_mapper"
        )
        return Conditioning(concat=mapper(x))

    def null(self, batch_size: int) -> Conditioning:
        """There is none: the published models with maps are sampled without guidance.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"the map {self.field!r} has no null condition; use guidance_scale=1"
        )
