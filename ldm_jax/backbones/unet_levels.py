"""How the denoiser U-Net's blocks stand together on one grid size.

`emb` is the activated time embedding [b, d], `tokens` what attention may read beside
the grid. Layers are made here, by the makers given, so that their parameters lie here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

# From a `name`: a residual block taking (x, emb, train); attention taking (x, tokens).
MakeLayer = Callable[..., nn.Module]
# (x, emb, train) -> x on the next grid.
Resample = Callable[[jax.Array, jax.Array, bool], jax.Array]


class DownLevel(nn.Module):
    """`num_blocks` x (block, attention), then the way down. Every output is a skip."""

    num_blocks: int
    make_block: MakeLayer
    make_attention: MakeLayer | None
    downsample: Resample | None

    @nn.compact
    def __call__(
        self, h: jax.Array, emb: jax.Array, tokens: jax.Array | None, train: bool
    ) -> tuple[jax.Array, list[jax.Array]]:
        """(output, skips in the order made)."""
        skips = []
        for i in range(self.num_blocks):
            h = self.make_block(name=f"block_{i}")(h, emb, train)
            if self.make_attention is not None:
                h = self.make_attention(name=f"attention_{i}")(h, tokens)
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h, emb, train)
            skips.append(h)
        return h, skips


class Middle(nn.Module):
    """Block, attention, block."""

    make_block: MakeLayer
    make_attention: MakeLayer

    @nn.compact
    def __call__(
        self, h: jax.Array, emb: jax.Array, tokens: jax.Array | None, train: bool
    ) -> jax.Array:
        """Same shape out as in."""
        h = self.make_block(name="block_0")(h, emb, train)
        h = self.make_attention(name="attention")(h, tokens)
        return self.make_block(name="block_1")(h, emb, train)


class UpLevel(nn.Module):
    """For each skip (join it, block, attention), then the way up."""

    make_block: MakeLayer
    make_attention: MakeLayer | None
    upsample: Resample | None

    @nn.compact
    def __call__(
        self,
        h: jax.Array,
        skips: list[jax.Array],
        emb: jax.Array,
        tokens: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """`skips` in the order in which they are joined, after `h` on the channels."""
        for i, skip in enumerate(skips):
            h = jnp.concatenate([h, skip], axis=-1)
            h = self.make_block(name=f"block_{i}")(h, emb, train)
            if self.make_attention is not None:
                h = self.make_attention(name=f"attention_{i}")(h, tokens)
        if self.upsample is not None:
            h = self.upsample(h, emb, train)
        return h
