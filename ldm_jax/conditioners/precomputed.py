"""Token conditioning by embeddings that the batch brings along."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.conditioners.base import take_field
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.conditioning import replace_examples as replace


class Precomputed(nn.Module):
    """Hands one batch field [b, k, d] to cross-attention unchanged; has no parameters.

    The published retrieval-augmented model: CLIP embeddings of the prompt and of its
    nearest neighbours, each of unit length.

    Attributes:
      embed_dim: width d of an embedding.
      num_tokens: how many embeddings `null` has. A batch may bring another number: with
        zeros for keys and values attention gives 0, however many there are.
      drop_rate: probability of replacing all of an example's embeddings by zeros with
        train=True.
      field: the batch field that holds the embeddings.
      dtype: of the output.
    """

    embed_dim: int
    num_tokens: int = 20
    drop_rate: float = 0.0
    field: str = "neighbors"
    dtype: Any = jnp.float32

    has_params = False

    @property
    def fields(self) -> tuple[str, ...]:
        """`(field,)`."""
        return (self.field,)

    @nn.compact
    def __call__(
        self, batch: Mapping[str, jax.Array], *, train: bool = False
    ) -> Conditioning:
        """Condition of `batch[field]`; see `Conditioner`."""
        x = take_field(batch, self.field)
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ValueError(
                f"the embeddings {self.field!r} have shape {x.shape}; they must be "
                f"[b, k, {self.embed_dim}], as conditioner.embed_dim says"
            )
        cond = Conditioning(tokens=x.astype(self.dtype))
        if train and self.drop_rate > 0:
            key = self.make_rng("drop")
            is_dropped = jax.random.bernoulli(key, self.drop_rate, x.shape[:1])
            cond = replace(is_dropped, cond, jax.tree.map(jnp.zeros_like, cond))
        return cond

    def null(self, batch_size: int) -> Conditioning:
        """Zeros, as the reference."""
        shape = (batch_size, self.num_tokens, self.embed_dim)
        return Conditioning(tokens=jnp.zeros(shape, self.dtype))
