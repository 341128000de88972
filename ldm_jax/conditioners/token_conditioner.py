"""What conditioners on token ids share: the batch field, dropout, and the null condition."""

from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning


class TokenConditioner(nn.Module, kw_only=True):
    """Encodes one batch field of ids, int32 [b, l]; a subclass says how, in `encode`.

    Dropped rows are replaced as ids, before encoding, so that what is dropped in training
    is what guidance asks for in sampling.

    Attributes:
      field: the batch field that holds the ids.
      max_length: positions that the encoder has.
      null_tokens: ids of the null condition, `max_length` of them: for texts the
        tokenizer's ids of "". None for a model without one.
      drop_rate: probability of replacing a row by `null_tokens` with train=True.
      dtype: compute dtype, and of the output.
    """

    field: str = "tokens"
    max_length: int = 77
    null_tokens: tuple[int, ...] | None = None
    drop_rate: float = 0.0
    dtype: Any = jnp.float32

    def encode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b m d"]:
        """Ids to the tokens that cross-attention reads."""
        raise NotImplementedError

    @property
    def fields(self) -> tuple[str, ...]:
        """`(field,)`."""
        return (self.field,)

    @property
    def has_null(self) -> bool:
        """Whether `null_tokens` are given."""
        return self.null_tokens is not None

    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """Condition of `batch[field]`; see `Conditioner`."""
        tokens = take_field(batch, self.field)
        if train and self.drop_rate > 0:
            key = self.make_rng("drop")
            is_dropped = jax.random.bernoulli(key, self.drop_rate, (len(tokens), 1))
            tokens = jnp.where(is_dropped, self._null_row(), tokens)
        return Conditioning(tokens=self.encode(tokens))

    def null(self, batch_size: int) -> Conditioning:
        """The encoded `null_tokens`, `batch_size` times.

        Raises:
          ValueError: if there are none.
        """
        encoded = self.encode(self._null_row())
        tokens = jnp.broadcast_to(encoded, (batch_size, *encoded.shape[1:]))
        return Conditioning(tokens=tokens)

    def _null_row(self) -> Int[Array, "1 l"]:
        if self.null_tokens is None:
            raise ValueError(
                "this conditioner has no null_tokens, so it cannot be guided; use "
                "guidance_scale=1 or set conditioner.null_tokens to the ids of "
                "an empty text"
            )
        return jnp.asarray(self.null_tokens, jnp.int32)[None]

    def _check(self) -> None:
        """Raises a ValueError for fields that do not fit together."""
        if not 0 <= self.drop_rate <= 1:
            raise ValueError(
                f"conditioner.drop_rate is {self.drop_rate}; it must lie in [0, 1]"
            )
        if self.drop_rate > 0 and self.null_tokens is None:
            raise ValueError(
                "conditioner.drop_rate replaces texts by conditioner.null_tokens; "
                "set those to the ids of an empty text as well"
            )
        if self.null_tokens is not None and len(self.null_tokens) != self.max_length:
            raise ValueError(
                f"conditioner.null_tokens holds {len(self.null_tokens)} ids; it must "
                f"hold conditioner.max_length={self.max_length}"
            )


def check_choice(field: str, value: str, choices: Any) -> None:
    """Raises a ValueError unless `value` is one of the `Literal` type `choices`."""
    if value not in get_args(choices):
        raise ValueError(
            f"conditioner.{field} is {value!r}; it must be one of {get_args(choices)}"
        )


def check_heads(width: int, num_heads: int) -> None:
    """Raises a ValueError unless `num_heads` divides `width`."""
    if width % num_heads:
        raise ValueError(
            f"conditioner.num_heads={num_heads} does not divide "
            f"conditioner.width={width}; give a divisor"
        )
