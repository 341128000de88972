"""Micro-conditioning on how a training picture was cut, as SDXL."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Int32

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.embeddings import timestep_embedding

NUM_NUMBERS = 6


class SizeAndCrop(nn.Module):
    """The size of the source picture, the crop's corner and the size of the result.

    Podell et al. 2023, section 2.2: pictures too small for the model need not be thrown
    away, and crops need not be copied; in sampling one asks for a large picture, uncropped
    (`default_geometry`). Each of the six numbers goes through the sinusoidal embedding of
    timesteps; these, end to end, through two layers with a SiLU to the width of the time
    embedding, which the result joins. There it stands beside others (`compose`), such as
    a class with `slot="vector"`: vectors add up.

    It has no null condition: guidance keeps it on both sides, as SDXL does, and so moves
    towards the text or class and not towards a size. Nothing of it is dropped in training.

    Attributes:
      embed_dim: of the result: the backbone's embedding width.
      frequency_dim: width of each number's sinusoidal embedding.
      field: the batch field, int32 [b, 6]: (height, width) of the source picture, (top,
        left) of the crop in its pixels, (height, width) of the result.
      dtype: of the output.
    """

    embed_dim: int
    frequency_dim: int = 256
    field: str = "geometry"
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
        geometry = take_field(batch, self.field)
        if geometry.ndim != 2 or geometry.shape[1] != NUM_NUMBERS:
            raise ValueError(
                f"the batch field {self.field!r} has shape {geometry.shape}; it must be "
                f"[b, {NUM_NUMBERS}]: two sizes and a corner"
            )
        embedded = timestep_embedding(geometry.reshape(-1), self.frequency_dim)
        embedded = embedded.reshape(len(geometry), -1)  # [(b n) d] -> [b (n d)]
        hidden = Dense(self.embed_dim, dtype=self.dtype, name="dense_0")(embedded)
        vector = Dense(self.embed_dim, dtype=self.dtype, name="dense_1")(
            nn.silu(hidden)
        )
        return Conditioning(vector=vector)

    def null(self, batch_size: int) -> Conditioning:
        """There is none: guidance keeps the condition.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            "size and crop alone have no null condition; use guidance_scale=1"
        )


def default_geometry(height: int, width: int) -> Int32[np.ndarray, "6"]:
    """What one samples with: a picture of just this size, uncropped."""
    return np.array([height, width, 0, 0, height, width], np.int32)
