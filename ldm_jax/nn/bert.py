"""BERT's encoder: bidirectional, normalised after each residual; Devlin et al. 2018."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ldm_jax.nn.placement import batch_split
from ldm_jax.nn.transformer import FeedForward, SelfAttention


class Bert(nn.Module):
    """Ids [b, l] to hidden states [b, l, d]; padding is not attended to.

    Equal to transformers' `BertModel` (arXiv:1810.04805) for single sentences: its
    embedding of the first segment is constant and belongs to `position_embedding` here.

    Attributes:
      width: d, four times narrower than the feed-forward layers inside.
      num_layers: blocks.
      num_heads: attention heads; they divide the width.
      vocab_size: rows of the token table; an id past its end gives NaN.
      max_length: rows of the position table, the longest sequence.
    """

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int
    max_length: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b l"], is_token: Bool[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """Hidden states after the last block; where not `is_token` they mean nothing."""
        x = self._embed("token_embedding", self.vocab_size)(tokens)
        positions = jnp.arange(tokens.shape[1])
        x += self._embed("position_embedding", self.max_length)(positions)
        x = batch_split(_norm(self.dtype, "norm_in")(x))
        for i in range(self.num_layers):
            block = BertBlock(self.num_heads, self.dtype, name=f"block_{i}")
            x = block(x, is_token)
        return x

    def _embed(self, name: str, size: int) -> nn.Embed:
        init = nn.initializers.normal(0.02)
        return nn.Embed(
            size, self.width, embedding_init=init, dtype=self.dtype, name=name
        )


class BertBlock(nn.Module):
    """Self-attention and a feed-forward of four times the width, each added and normed."""

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], is_token: Bool[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """See the class."""
        head_dim = x.shape[-1] // self.num_heads
        attention = SelfAttention(
            self.num_heads, head_dim, dtype=self.dtype, name="self_attention"
        )
        x = _norm(self.dtype, "norm1")(x + attention(x, is_token))
        feed_forward = FeedForward(dtype=self.dtype, name="feed_forward")
        return _norm(self.dtype, "norm2")(x + feed_forward(x))


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, dtype=dtype, name=name)
