"""A small torch U-Net written from the published description, as a second opinion.

NCHW, with the published state-dict names, so that its weights pass through the same
rename rules as a released checkpoint. All layers are random, none zero, so that an
error in any of them shows.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(t, dim):
    half = dim // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angles = t[:, None].float() * freqs[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def conv3(c_in, c_out, stride=1):
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)


def upsample(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class ResBlock(nn.Module):
    def __init__(self, c_in, c_out, emb_dim, film, resample=None):
        super().__init__()
        self.film, self.resample = film, resample or (lambda x: x)
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, c_in), nn.SiLU(), conv3(c_in, c_out)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_dim, c_out * (2 if film else 1))
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Identity(), conv3(c_out, c_out)
        )
        self.skip_connection = (
            nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        )

    def forward(self, x, emb, context):
        h = self.resample(self.in_layers[1](self.in_layers[0](x)))
        h, x = self.in_layers[2](h), self.resample(x)
        e = self.emb_layers(emb)[:, :, None, None]
        if self.film:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + e)
        return self.skip_connection(x) + self.out_layers[3](F.silu(h))


class PlainAttention(nn.Module):
    def __init__(self, channels, heads, split_first):
        super().__init__()
        self.heads, self.split_first = heads, split_first
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, emb, context):
        b, c, h, w = x.shape
        d = c // self.heads
        qkv = self.qkv(self.norm(x.reshape(b, c, h * w)))
        if self.split_first:
            q, k, v = qkv.reshape(b, 3, self.heads, d, -1).unbind(1)
        else:
            q, k, v = qkv.reshape(b, self.heads, 3, d, -1).unbind(2)
        attend = torch.softmax(q.transpose(2, 3) @ k / math.sqrt(d), dim=-1)
        out = (v @ attend.transpose(2, 3)).reshape(b, c, h * w)
        return x + self.proj_out(out).reshape(b, c, h, w)


class CrossAttention(nn.Module):
    def __init__(self, dim, context_dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x, context=None):
        context = x if context is None else context
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        attend = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
        return self.to_out((attend @ v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, dim, context_dim, heads):
        super().__init__()
        self.attn1 = CrossAttention(dim, dim, heads)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim or dim, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels, context_dim, heads, depth, linear):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        kind = nn.Linear if linear else (lambda i, o: nn.Conv2d(i, o, 1))
        self.linear = linear
        self.proj_in, self.proj_out = kind(channels, channels), kind(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, heads) for _ in range(depth)
        )

    def forward(self, x, emb, context):
        def tokens(y):
            return y.flatten(2).transpose(1, 2)

        def image(y):
            return y.transpose(1, 2).reshape(x.shape)

        h = self.norm(x)
        h = self.proj_in(tokens(h)) if self.linear else tokens(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, context)
        h = image(self.proj_out(h)) if self.linear else self.proj_out(image(h))
        return x + h


class Resample(nn.Module):
    def __init__(self, name, fn, conv):
        super().__init__()
        self.fn, self.conv_name = fn, name
        setattr(self, name, conv)

    def forward(self, x, emb, context):
        return getattr(self, self.conv_name)(self.fn(x))


class Stack(nn.Sequential):
    def forward(self, x, emb, context):
        for layer in self:
            x = layer(x, emb, context)
        return x


class TorchUNet(nn.Module):
    """Takes the fields of our `UNet` plus the widths that ours derives."""

    def __init__(self, *, in_channels, context_dim=None, num_classes=None, unet):
        super().__init__()
        self.unet, self.context_dim = unet, context_dim
        c, emb_dim = unet.model_channels, 4 * unet.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(c, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        if num_classes:
            self.label_emb = nn.Embedding(num_classes, emb_dim)
        levels, repeats = len(unet.channel_mult), unet.num_res_blocks
        blocks, skips, ds = [nn.ModuleList([conv3(in_channels, c)])], [c], 1
        for level, mult in enumerate(unet.channel_mult):
            for _ in range(repeats):
                blocks.append(self._block(c, mult, ds))
                c = mult * unet.model_channels
                skips.append(c)
            if level < levels - 1:
                blocks.append(Stack(self._down(c)))
                skips.append(c)
                ds *= 2
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Stack(self._res(c, c), self._attention(c), self._res(c, c))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(unet.channel_mult))):
            for i in range(repeats + 1):
                block = self._block(c + skips.pop(), mult, ds)
                c = mult * unet.model_channels
                if level > 0 and i == repeats:
                    block.append(self._up(c))
                    ds //= 2
                self.output_blocks.append(block)
        self.out = nn.Sequential(
            nn.GroupNorm(32, c), nn.SiLU(), conv3(c, unet.out_channels)
        )

    def _res(self, c_in, c_out, resample=None):
        film = self.unet.time_conditioning == "film"
        return ResBlock(c_in, c_out, 4 * self.unet.model_channels, film, resample)

    def _attention(self, c):
        u = self.unet
        heads = u.num_heads or c // u.num_head_channels
        if u.attention == "plain":
            return PlainAttention(c, heads, u.attention_order == "split_first")
        linear = u.transformer_projection == "linear"
        return SpatialTransformer(
            c, self.context_dim, heads, u.transformer_depth, linear
        )

    def _block(self, c_in, mult, ds):
        c = mult * self.unet.model_channels
        layers = [self._res(c_in, c)]
        if ds in self.unet.attention_resolutions:
            layers.append(self._attention(c))
        return Stack(*layers)

    def _down(self, c):
        if self.unet.resampling == "resblock":
            return self._res(c, c, lambda x: F.avg_pool2d(x, 2))
        if self.unet.resampling == "conv":
            return Resample("op", lambda x: x, conv3(c, c, stride=2))
        return Resample("op", lambda x: F.avg_pool2d(x, 2), nn.Identity())

    def _up(self, c):
        if self.unet.resampling == "resblock":
            return self._res(c, c, upsample)
        conv = conv3(c, c) if self.unet.resampling == "conv" else nn.Identity()
        return Resample("conv", upsample, conv)

    def forward(self, x, t, context=None, y=None):
        emb = self.time_embed(timestep_embedding(t, self.unet.model_channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        h = self.input_blocks[0][0](x)
        skips = [h]
        for block in self.input_blocks[1:]:
            h = block(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h)
