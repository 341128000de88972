"""Attention blocks of the denoiser U-Net: plain self-attention, and the transformer.

Both take `(x, tokens)`; plain attention has no use for tokens. The last projection of
each starts at zero, so that a new block is the identity.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ldm_jax.nn.attention import attention
from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.normalization import GroupNorm

AttentionOrder = Literal["legacy", "split_first"]
Projection = Literal["conv", "linear"]

_ZEROS = nn.initializers.zeros_init()


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the pixels of a grid, with a residual.

    Attributes:
      order: how the channels of the joint projection are grouped. "legacy" (all
        published models) is head, then q/k/v, then channel; "split_first" is q/k/v,
        then head, then channel (the reference's use_new_attention_order). Shapes are
        the same: the wrong one loads without complaint and draws noise.
    """

    num_heads: int
    order: AttentionOrder = "legacy"
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], tokens: Float[Array, "b l d"] | None = None
    ) -> Float[Array, "b h w c"]:
        """`tokens` is not used; see the module's docstring."""
        del tokens
        b, h, w, c = x.shape
        y = GroupNorm(self.num_groups, epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        y = y.reshape(b, h * w, c)  # [b h w c] -> [b (h w) c]
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(y)
        if self.order == "legacy":
            qkv = qkv.reshape(b, h * w, self.num_heads, 3, -1)
            q, k, v = jnp.unstack(qkv, axis=3)
        else:
            qkv = qkv.reshape(b, h * w, 3, self.num_heads, -1)
            q, k, v = jnp.unstack(qkv, axis=2)
        y = attention(q, k, v).reshape(b, h, w, c)
        y = Dense(
            c, kernel_init=_ZEROS, bias_init=_ZEROS, dtype=self.dtype, name="proj_out"
        )(y)
        return x + y


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a grid, reading tokens; with a residual.

    Attributes:
      depth: number of transformer blocks.
      projection: kind of the layers into and out of the blocks. A 1x1 convolution
        ("conv", all published LDMs and Stable Diffusion 1) and a linear layer
        ("linear", Stable Diffusion 2) compute the same; only the weights' shapes differ.
    """

    num_heads: int
    depth: int = 1
    projection: Projection = "conv"
    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], tokens: Float[Array, "b l d"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Without tokens, the cross-attention layers attend to the grid itself."""
        b, h, w, c = x.shape
        y = GroupNorm(self.num_groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        y = self._project(y, "proj_in")
        y = y.reshape(b, h * w, c)  # [b h w c] -> [b (h w) c]
        for i in range(self.depth):
            block = TransformerBlock(self.num_heads, self.dtype, name=f"block_{i}")
            y = block(y, tokens)
        y = y.reshape(b, h, w, c)
        y = self._project(y, "proj_out", kernel_init=_ZEROS, bias_init=_ZEROS)
        return x + y

    def _project(self, x: jax.Array, name: str, **init: Any) -> jax.Array:
        if self.projection == "linear":
            return Dense(x.shape[-1], dtype=self.dtype, name=name, **init)(x)
        return Conv(x.shape[-1], 1, dtype=self.dtype, name=name, **init)(x)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention, feed-forward, each with a residual.

    The paper's table 16 lists another order; this is the reference's.
    """

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], tokens: Float[Array, "b l d"] | None
    ) -> Float[Array, "b n c"]:
        """See the class."""
        y = self._norm("norm1")(x)
        x = x + CrossAttention(self.num_heads, self.dtype, name="self_attention")(y, y)
        y = self._norm("norm2")(x)
        read = y if tokens is None else tokens
        x = x + CrossAttention(self.num_heads, self.dtype, name="cross_attention")(
            y, read
        )
        y = self._norm("norm3")(x)
        return x + FeedForward(self.dtype, name="feed_forward")(y)

    def _norm(self, name: str) -> nn.Module:
        # The fast variance E[x^2] - E[x]^2 loses digits when the mean is large.
        return nn.LayerNorm(
            epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name
        )


class CrossAttention(nn.Module):
    """Multi-head attention from `x` to `tokens`; q, k, v without bias."""

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], tokens: Float[Array, "b l d"]
    ) -> Float[Array, "b n c"]:
        """See the class."""
        c = x.shape[-1]

        def heads(name: str, y: jax.Array) -> jax.Array:
            y = Dense(c, use_bias=False, dtype=self.dtype, name=name)(y)
            return y.reshape(*y.shape[:2], self.num_heads, -1)  # [b n heads d]

        y = attention(heads("query", x), heads("key", tokens), heads("value", tokens))
        return Dense(c, dtype=self.dtype, name="out")(y.reshape(x.shape))


class FeedForward(nn.Module):
    """GEGLU: value * gelu(gate), four times as wide inside (exact gelu).

    Shazeer 2020, https://arxiv.org/abs/2002.05202; the value is the first half.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """See the class."""
        c = x.shape[-1]
        h = Dense(8 * c, dtype=self.dtype, name="proj_in")(x)
        value, gate = jnp.split(h, 2, axis=-1)
        h = value * nn.gelu(gate, approximate=False)
        return Dense(c, dtype=self.dtype, name="proj_out")(h)
