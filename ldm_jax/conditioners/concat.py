"""Spatial conditioning by a map that is already on the latent grid."""

from collections.abc import Mapping

import jax
from flax import linen as nn

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning


class Concat(nn.Module):
    """Hands one batch field [b, h, w, c] to the denoiser unchanged; has no parameters.

    The published super-resolution model: the low-resolution image in [-1, 1] has the
    size of the latent.

    Attributes:
      field: the batch field to hand on.
    """

    field: str

    has_params = False
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
        return Conditioning(concat=take_field(batch, self.field))

    def null(self, batch_size: int) -> Conditioning:
        """There is none: the published models with maps are sampled without guidance.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"the map {self.field!r} has no null condition; use guidance_scale=1"
        )
