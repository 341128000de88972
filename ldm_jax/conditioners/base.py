"""The conditioner contract: batch in, `Conditioning` out."""

from collections.abc import Mapping
from typing import Protocol

import jax

from ldm_jax.nn.conditioning import Conditioning


class Conditioner(Protocol):
    """A linen module that turns fields of a batch into a condition.

    Condition dropout during training is the conditioner's own affair: a field
    `drop_rate` and the PRNG stream "drop", drawn only with `train=True`.
    """

    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """Condition of a batch.

        Raises:
          ValueError: names the field that the batch lacks.
        """
        ...

    def null(self, batch_size: int) -> Conditioning:
        """The condition "nothing asked for", the unconditional side of guidance.

        Raises:
          ValueError: if this conditioner has no null condition.
        """
        ...


def take_field(batch: Mapping[str, jax.Array], field: str) -> jax.Array:
    """`batch[field]`, or a ValueError that lists the fields there are."""
    if field not in batch:
        raise ValueError(
            f"the conditioner needs the batch field {field!r} but the batch has only "
            f"{sorted(batch)}; check the data section of the config"
        )
    return batch[field]
