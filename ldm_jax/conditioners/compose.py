"""Several conditioners at once."""

from collections.abc import Mapping
from functools import reduce

import jax
from flax import linen as nn

from ldm_jax.conditioners import base
from ldm_jax.nn.conditioning import Conditioning, merge


class Compose(nn.Module):
    """The conditions of all parts, merged: the reference's `hybrid`.

    `null` leaves out what can be left out. Stable Diffusion's inpainting model: its text
    has a null condition; the masked picture has none and is kept on both sides of
    guidance. The same holds for parts that share a slot, as a class vector and SDXL's
    size and crop do, if `null` gets to see the batch.

    Attributes:
      parts: linen modules with a `name` each, under which their parameters lie. Tokens
        and channels are joined in their order; a config's parts come sorted by name.
    """

    parts: tuple[nn.Module, ...]

    preserve_adopted_names = True  # linen would call them parts_0, parts_1, ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of all parts, each once."""
        return _union(part.fields for part in self.parts)  # pyright: ignore

    @property
    def latent_fields(self) -> tuple[str, ...]:
        """Those of all parts."""
        return _union(base.latent_fields(part) for part in self.parts)

    @property
    def has_params(self) -> bool:
        """Whether any part has."""
        return any(base.has_params(part) for part in self.parts)

    @property
    def has_null(self) -> bool:
        """Whether any part has."""
        return any(base.has_null(part) for part in self.parts)

    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """All conditions; see `Conditioner`."""
        return reduce(merge, [part(batch, train=train) for part in self.parts])

    def null(
        self, batch_size: int, batch: Mapping[str, jax.Array] | None = None
    ) -> Conditioning:
        """The null conditions of the parts that have one.

        Args:
          batch_size: how many.
          batch: what is asked for, of that size; parts without a null condition that
            share a slot with others are then conditioned on it. Without it, and for
            parts that read latents, their slots stay empty.

        Raises:
          ValueError: if no part has one.
        """
        if not self.has_null:
            raise ValueError(
                "no part of this conditioner has a null condition; use guidance_scale=1"
            )
        conditions = []
        for part in self.parts:
            if base.has_null(part):
                conditions.append(part.null(batch_size))  # pyright: ignore
            elif batch is not None and not base.latent_fields(part):
                conditions.append(part(batch))
        return reduce(merge, conditions)


def _union(groups) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))
