"""A transformer over token ids: the text encoders of latent diffusion and of CLIP.

Its attention and feed-forward are those of BERT (`nn.bert`) as well.

Sequences are short (77 or 92 tokens), so attention is the plain product.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ldm_jax.nn.dense import Dense
from ldm_jax.nn.placement import batch_split

Remat = Literal["none", "blocks"]
Activation = Literal["gelu", "quick_gelu"]
Mask = Literal["none", "causal"]


class Transformer(nn.Module):
    """Ids [b, l] to hidden states [b, l, d]: embeddings, pre-norm blocks, a last norm.

    Positions are learned and absolute. Both embeddings start from N(0, 0.02), the linear
    layers from torch's default.

    Attributes:
      embed_dim: width d.
      num_layers: blocks that have parameters.
      head_dim: width of a head; heads times head_dim need not be d.
      vocab_size: rows of the token table; an id past its end gives NaN.
      max_length: rows of the position table, the longest sequence.
      qkv_bias: whether queries, keys and values have biases.
      mask: "causal" lets a token attend to itself and those before it. Padding is never
        masked.
      activation: "gelu" is exact; "quick_gelu" is x * sigmoid(1.702 x).
      num_unused: how many of the last blocks do not count towards the output.
      remat: "blocks" keeps only the blocks' inputs for the backward pass.
    """

    embed_dim: int
    num_layers: int
    num_heads: int
    head_dim: int
    vocab_size: int
    max_length: int
    qkv_bias: bool = True
    mask: Mask = "none"
    activation: Activation = "gelu"
    num_unused: int = 0
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Hidden states after the last norm.

        Raises:
          ValueError: if the sequence is longer than the position table.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"the text encoder got {length} tokens but has {self.max_length} "
                "positions; set tokenizer.max_length to the conditioner's max_length"
            )
        x = self._embed("token_embedding", self.vocab_size)(tokens)
        x += self._embed("position_embedding", self.max_length)(jnp.arange(length))
        block = (
            nn.remat(TransformerBlock) if self.remat == "blocks" else TransformerBlock
        )
        hidden = [batch_split(x)]
        for i in range(self.num_layers):
            layer = block(
                self.num_heads,
                self.head_dim,
                qkv_bias=self.qkv_bias,
                mask=self.mask,
                activation=self.activation,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            hidden.append(layer(hidden[-1]))
        # Unused blocks have parameters, so that checkpoints keep them; jit drops them.
        return _norm(self.dtype, "norm_out")(hidden[self.num_layers - self.num_unused])

    def _embed(self, name: str, size: int) -> nn.Embed:
        init = nn.initializers.normal(0.02)
        return nn.Embed(
            size, self.embed_dim, embedding_init=init, dtype=self.dtype, name=name
        )


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a feed-forward of four times the width, with residuals."""

    num_heads: int
    head_dim: int
    qkv_bias: bool = True
    mask: Mask = "none"
    activation: Activation = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """See the class."""
        y = _norm(self.dtype, "norm1")(x)
        x += SelfAttention(
            self.num_heads,
            self.head_dim,
            qkv_bias=self.qkv_bias,
            mask=self.mask,
            dtype=self.dtype,
            name="self_attention",
        )(y)
        y = _norm(self.dtype, "norm2")(x)
        return x + FeedForward(self.activation, self.dtype, name="feed_forward")(y)


class SelfAttention(nn.Module):
    """Multi-head self-attention of a sequence; the softmax is float32."""

    num_heads: int
    head_dim: int
    qkv_bias: bool = True
    mask: Mask = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], is_token: Bool[Array, "b l"] | None = None
    ) -> Float[Array, "b l d"]:
        """Attend to the positions where `is_token`; to all if that is None."""
        inner = self.num_heads * self.head_dim

        def heads(name: str) -> jax.Array:
            y = Dense(inner, use_bias=self.qkv_bias, dtype=self.dtype, name=name)(x)
            return y.reshape(*x.shape[:2], self.num_heads, self.head_dim)

        y = jax.nn.dot_product_attention(
            heads("query"),
            heads("key"),
            heads("value"),
            mask=None if is_token is None else is_token[:, None, None],
            is_causal=self.mask == "causal",
            implementation="xla",
        )
        y = y.reshape(*x.shape[:2], inner)  # [b l n d] -> [b l (n d)]
        return Dense(x.shape[-1], dtype=self.dtype, name="out")(y)


class FeedForward(nn.Module):
    """Linear, activation, linear; four times as wide inside."""

    activation: Activation = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """See the class."""
        d = x.shape[-1]
        h = Dense(4 * d, dtype=self.dtype, name="proj_in")(x)
        if self.activation == "gelu":
            h = nn.gelu(h, approximate=False)
        else:
            h = h * nn.sigmoid(1.702 * h)
        return Dense(d, dtype=self.dtype, name="proj_out")(h)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    # The fast variance E[x^2] - E[x]^2 loses digits when the mean is large.
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)
