"""Spatial conditioning by a picture with a hole in it."""

from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning

Order = Literal["latent_first", "mask_first"]


class Inpainting(nn.Module):
    """The masked picture's latent and the hole on the latent grid; has no parameters.

    The batch field `hole` [b, H, W, 1] is 1 where the picture is to be filled in, and is
    resized by taking the nearest pixel above and to the left, as torch does.
    `masked_image` [b, H, W, 3] in [-1, 1] reaches this module as a scaled latent.

    Attributes:
      order: "latent_first": [latent, hole] with the hole in -1..1, and -1 in the hole of
        `masked_image` (LDM's inpainting_big); "mask_first": [hole, latent] with the hole
        in 0..1, and 0 in the hole of `masked_image` (Stable Diffusion's 9 channels,
        whose original draws from the posterior where the mode is taken here).
    """

    order: Order = "latent_first"

    fields = ("masked_image", "hole")
    latent_fields = ("masked_image",)
    has_params = False
    has_null = False

    @property
    def hole_value(self) -> float:
        """What `masked_image` holds in the hole."""
        return {"latent_first": -1.0, "mask_first": 0.0}[self.order]

    @nn.compact
    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """Condition of `masked_image` (a latent by now) and `hole`; see `Conditioner`."""
        del train
        if self.order not in get_args(Order):
            raise ValueError(
                f"conditioner.order is {self.order!r}; it must be one of "
                f"{get_args(Order)}"
            )
        latent = take_field(batch, "masked_image")
        hole = take_field(batch, "hole")
        hole = resize_nearest(hole, latent.shape[1], latent.shape[2])
        parts = [hole, latent]
        if self.order == "latent_first":
            parts = [latent, 2 * hole - 1]
        parts = [part.astype(latent.dtype) for part in parts]
        return Conditioning(concat=jnp.concatenate(parts, axis=-1))

    def null(self, batch_size: int) -> Conditioning:
        """There is none: a hole is always there.

        Raises:
          ValueError: always.
        """
        raise ValueError("inpainting alone has no null condition; use guidance_scale=1")


def resize_nearest(
    x: Float[Array, "b H W c"], height: int, width: int
) -> Float[Array, "b h w c"]:
    """Pixel floor(i * H / h) of each axis: torch's "nearest" interpolation."""
    rows = jnp.arange(height) * x.shape[1] // height
    columns = jnp.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]
