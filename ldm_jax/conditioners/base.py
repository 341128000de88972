"""The conditioner contract: batch in, `Conditioning` out."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from ldm_jax.nn.conditioning import Conditioning


class Conditioner(Protocol):
    """A linen module that turns fields of a batch into a condition.

    Condition dropout during training is the conditioner's own affair: a field
    `drop_rate` and the PRNG stream "drop", drawn only with `train=True`.

    What holds for most conditioners need not be written down: `latent_fields` is then
    empty, `has_params` and `has_null` are True.

    Attributes:
      fields: the batch fields that it reads.
      latent_fields: those of them that `LatentDiffusion.condition` replaces, before the
        conditioner sees them, by scaled latents of the first stage.
      has_params: whether there is anything to train.
      has_null: whether `null` exists.
      field_shapes: `{field: (shape of one example, dtype)}`, asked of conditioners that
        are not among this package's own.
    """

    @property
    def fields(self) -> tuple[str, ...]: ...

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

        A slot that it leaves empty cannot be left out: guidance keeps the condition's.
        `Compose` also takes the batch, for parts of one slot of which some are kept.

        Raises:
          ValueError: if this conditioner has no null condition.
        """
        ...


def latent_fields(conditioner: Any) -> tuple[str, ...]:
    """The batch fields that it takes as latents; none without a conditioner."""
    return getattr(conditioner, "latent_fields", ())


def has_params(conditioner: Any) -> bool:
    """Whether there is anything to train; False without a conditioner."""
    return conditioner is not None and getattr(conditioner, "has_params", True)


def has_null(conditioner: Any) -> bool:
    """Whether it can be left out, as guidance asks; False without a conditioner."""
    return conditioner is not None and getattr(conditioner, "has_null", True)


def take_field(batch: Mapping[str, jax.Array], field: str) -> jax.Array:
    """`batch[field]`, or a ValueError that lists the fields there are."""
    if field not in batch:
        raise ValueError(
            f"the conditioner needs the batch field {field!r} but the batch has only "
            f"{sorted(batch)}; check the data section of the config"
        )
    return batch[field]
