"""The convolutional encoder and decoder of all published first stages.

Esser et al. 2021 (arXiv:2012.09841) and Rombach et al. 2022 (arXiv:2112.10752), as in
the reference's code. Parameter paths count levels by resolution: `down_0` and `up_0` are
both at full resolution, although `up_0` runs last.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Float

from ldm_jax.nn.attention import attention
from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.dense import Dense
from ldm_jax.nn.normalization import GroupNorm
from ldm_jax.nn.resample import Downsample, Upsample
from ldm_jax.nn.resnet import ResnetBlock

EPSILON = 1e-6
PAD_RIGHT_BOTTOM = ((0, 1), (0, 1))


@dataclasses.dataclass(frozen=True)
class Topology:
    """What encoder and decoder share; the fields are those of `base.Autoencoder`."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    mid_attention: bool
    dropout: float
    num_groups: int
    dtype: Any
    remat: Literal["none", "blocks"]

    @property
    def num_levels(self) -> int:
        return len(self.ch_mult)

    def width(self, level: int) -> int:
        """Channels at `level`, where 0 is full resolution."""
        return self.ch * self.ch_mult[level]

    def has_attention(self, level: int) -> bool:
        """Decided from the nominal resolution, not from the image that comes in."""
        return self.resolution // 2**level in self.attn_resolutions

    def block(self, features: int) -> ResnetBlock:
        kind = nn.remat(ResnetBlock) if self.remat == "blocks" else ResnetBlock
        return kind(features, self.num_groups, EPSILON, self.dropout, dtype=self.dtype)

    def norm(self, name: str | None = None) -> GroupNorm:
        return GroupNorm(self.num_groups, EPSILON, self.dtype, name=name)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels, added to the input."""

    topology: Topology

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape

        def dense(name):
            return Dense(c, dtype=self.topology.dtype, name=name)

        y = self.topology.norm(name="norm")(x)
        y = y.reshape(b, h * w, c)
        q, k, v = (dense(name)(y)[:, :, None] for name in ("q", "k", "v"))
        y = attention(q, k, v)[:, :, 0]  # [b (h w) c]
        return x + dense("proj_out")(y).reshape(b, h, w, c)


class Level(nn.Module):
    """Residual blocks at one resolution, attention after each, then resampling."""

    topology: Topology
    features: int
    num_blocks: int
    has_attention: bool
    resampling: Literal["none", "down", "up"]

    def setup(self):
        blocks = range(self.num_blocks)
        self.block = [self.topology.block(self.features) for _ in blocks]
        if self.has_attention:
            self.attn = [AttentionBlock(self.topology) for _ in blocks]
        if self.resampling == "down":
            self.downsample = Downsample(PAD_RIGHT_BOTTOM, self.topology.dtype)
        if self.resampling == "up":
            self.upsample = Upsample(self.topology.dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        for i in range(self.num_blocks):
            x = self.block[i](x)
            if self.has_attention:
                x = self.attn[i](x)
        if self.resampling == "down":
            x = self.downsample(x)
        if self.resampling == "up":
            x = self.upsample(x)
        return x


class Middle(nn.Module):
    """Block, attention (unless the topology has none), block at the lowest resolution."""

    topology: Topology

    def setup(self):
        width = self.topology.width(self.topology.num_levels - 1)
        self.block_1 = self.topology.block(width)
        if self.topology.mid_attention:
            self.attn_1 = AttentionBlock(self.topology)
        self.block_2 = self.topology.block(width)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = self.block_1(x)
        if self.topology.mid_attention:
            x = self.attn_1(x)
        return self.block_2(x)


class Encoder(nn.Module):
    """Image -> features at 1 / 2^(levels - 1) of its size; odd sizes round down."""

    topology: Topology
    out_channels: int

    def setup(self):
        t = self.topology
        self.conv_in = Conv(t.ch, padding=1, dtype=t.dtype)
        self.down = [
            Level(
                t,
                t.width(level),
                t.num_res_blocks,
                t.has_attention(level),
                "none" if level == t.num_levels - 1 else "down",
            )
            for level in range(t.num_levels)
        ]
        self.mid = Middle(t)
        self.norm_out = t.norm()
        self.conv_out = Conv(self.out_channels, padding=1, dtype=t.dtype)

    def __call__(self, image: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        x = self.conv_in(image)
        for level in self.down:
            x = level(x)
        return self.conv_out(nn.swish(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features -> image, in two halves so that a loss can reach the last layer."""

    topology: Topology
    out_channels: int

    def setup(self):
        t = self.topology
        self.conv_in = Conv(t.width(t.num_levels - 1), padding=1, dtype=t.dtype)
        self.mid = Middle(t)
        self.up = [
            Level(
                t,
                t.width(level),
                t.num_res_blocks + 1,
                t.has_attention(level),
                "none" if level == 0 else "up",
            )
            for level in range(t.num_levels)
        ]
        self.norm_out = t.norm()
        self.conv_out = Conv(self.out_channels, padding=1, dtype=t.dtype)

    def features(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """Everything before `conv_out`."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return nn.swish(self.norm_out(x))

    def to_image(self, features: Float[Array, "b H W d"]) -> Float[Array, "b H W c"]:
        """`conv_out` alone; no tanh, so the image may leave [-1, 1]."""
        return self.conv_out(features)
