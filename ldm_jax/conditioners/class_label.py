"""Class conditioning by a learned table."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.placement import batch_split

Slot = Literal["tokens", "vector"]


class ClassLabel(nn.Module):
    """An embedding table over classes, initialised from N(0, 1).

    `slot="tokens"` gives one token per image [b, 1, d] for cross-attention: the
    published ImageNet models (there, softmax over one token is constantly 1, so
    cross-attention adds a learned bias per class). `slot="vector"` gives [b, d], added
    to the time embedding; `embed_dim` is then the backbone's embedding width.

    The reference has no condition dropout; cin256-v2 was trained with one that was never
    published, and its table of 1001 rows is `num_classes=1000, has_null=True` here: the
    null class is the last row. cin256 (f8) has no null row.

    Attributes:
      num_classes: classes without the null class; labels are 0..num_classes-1. The
        label `num_classes` stands for the null class where there is one. Under jit a
        label cannot be checked: one past the table gives NaN.
      embed_dim: width of the embedding.
      has_null: whether the table has one more row, for guidance.
      drop_rate: probability of replacing a label by the null class with train=True.
      slot: where the embedding goes.
      field: the batch field that holds the labels, int32 [b].
      dtype: of the output.
    """

    num_classes: int
    embed_dim: int
    has_null: bool = True
    drop_rate: float = 0.0
    slot: Slot = "tokens"
    field: str = "class_label"
    dtype: Any = jnp.float32

    @property
    def fields(self) -> tuple[str, ...]:
        """`(field,)`."""
        return (self.field,)

    def setup(self):
        self._check()
        self.embedding = nn.Embed(
            self.num_classes + self.has_null,
            self.embed_dim,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
        )

    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """Condition of `batch[field]`; see `Conditioner`."""
        label = take_field(batch, self.field)
        if train and self.drop_rate > 0:
            key = self.make_rng("drop")
            is_dropped = jax.random.bernoulli(key, self.drop_rate, label.shape)
            label = jnp.where(is_dropped, self.num_classes, label)
        return self._embed(label)

    def null(self, batch_size: int) -> Conditioning:
        """The null class, `batch_size` times.

        Raises:
          ValueError: if the table has no null row.
        """
        if not self.has_null:
            raise ValueError(
                "this class conditioner has no null class, so it cannot be guided; "
                "use guidance_scale=1 or train with conditioner.has_null=True"
            )
        return self._embed(jnp.full((batch_size,), self.num_classes, jnp.int32))

    def _embed(self, label: jax.Array) -> Conditioning:
        embedded = batch_split(self.embedding(label))  # [b d]
        if self.slot == "vector":
            return Conditioning(vector=embedded)
        return Conditioning(tokens=embedded[:, None])  # [b 1 d]

    def _check(self) -> None:
        if self.slot not in get_args(Slot):
            raise ValueError(
                f"conditioner.slot is {self.slot!r}; it must be one of {get_args(Slot)}"
            )
        if not 0 <= self.drop_rate <= 1:
            raise ValueError(
                f"conditioner.drop_rate is {self.drop_rate}; it must lie in [0, 1]"
            )
        if self.drop_rate > 0 and not self.has_null:
            raise ValueError(
                "conditioner.drop_rate replaces labels by the null class; "
                "set conditioner.has_null=True as well"
            )
