"""The denoiser U-Net of latent diffusion.

Dhariwal and Nichol 2021 (https://arxiv.org/abs/2105.05233) with the spatial transformer
of Rombach et al. 2022 (https://arxiv.org/abs/2112.10752, appendix E.2.1); wiring and
constants are the reference implementation's. Level l works on 1 / 2^l of the latent's
grid. Parameter paths, which checkpoints and rename rules rely on:

    time_embed/dense_{0,1}   conv_in   norm_out   conv_out
    down_<l>/{block_<i>, attention_<i>, downsample}
    mid/{block_0, attention, block_1}
    up_<l>/{block_<i>, attention_<i>, upsample}
"""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ldm_jax.backbones.unet_attention import (
    AttentionBlock,
    AttentionOrder,
    Projection,
    SpatialTransformer,
)
from ldm_jax.backbones.unet_blocks import (
    Direction,
    ResnetBlock,
    TimeConditioning,
    TimeEmbedding,
    resampled,
)
from ldm_jax.backbones.unet_levels import (
    DownLevel,
    MakeLayer,
    Middle,
    Resample,
    UpLevel,
)
from ldm_jax.nn.conditioning import Conditioning
from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.normalization import GroupNorm
from ldm_jax.nn.resample import Downsample, Upsample

Attention = Literal["plain", "transformer"]
Resampling = Literal["conv", "resblock", "pool"]
Remat = Literal["none", "dots", "blocks"]

# What the gradient finds of a block besides its inputs.
_KEPT = {
    "blocks": None,
    "dots": jax.checkpoint_policies.dots_saveable,
}
_CHOICES = {
    "attention": Attention,
    "attention_order": AttentionOrder,
    "transformer_projection": Projection,
    "time_conditioning": TimeConditioning,
    "resampling": Resampling,
    "remat": Remat,
}


class UNet(nn.Module):
    """Predicts noise (or whatever it is trained to) from a noisy latent.

    Input channels and the width of the tokens follow from the inputs at `init`.

    Attributes:
      out_channels: channels of the prediction, those of the latent.
      model_channels: channels at level 0.
      channel_mult: channels of each level, as multiples of `model_channels`.
      num_res_blocks: residual blocks a level on the way down; one more on the way up.
      attention_resolutions: downsampling factors (1 = latent size, 2, 4, ...), not
        sizes, at which each residual block is followed by attention. The middle always
        has one. Factors that no level reaches are ignored.
      attention: "plain" self-attention, or "transformer", which also reads tokens.
      num_heads, num_head_channels: exactly one is given: the number of heads at every
        level, or the width of each.
      attention_order: see `AttentionBlock`.
      transformer_depth: blocks in each transformer.
      transformer_projection: see `SpatialTransformer`.
      time_conditioning: see `ResnetBlock`.
      resampling: between levels: a convolution, a residual block that averages or
        repeats, or averaging and repeating alone.
      dropout: rate inside residual blocks, PRNG stream "dropout"; transformers have
        none, as in the reference.
      num_groups: of every group norm; the published models have 32.
      remat: "blocks" keeps only the inputs of residual and attention blocks for the
        gradient and computes the rest again; "dots" keeps the results of products and
        convolutions as well, so that norms and activations alone are computed twice.
      dtype: of activations; norms, softmax and the output are float32 all the same.
    """

    out_channels: int
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = ()
    attention: Attention = "plain"
    num_heads: int | None = None
    num_head_channels: int | None = None
    attention_order: AttentionOrder = "legacy"
    transformer_depth: int = 1
    transformer_projection: Projection = "conv"
    time_conditioning: TimeConditioning = "add"
    resampling: Resampling = "conv"
    dropout: float = 0.0
    num_groups: int = 32
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Float[Array, " b"] | Int[Array, " b"],
        cond: Conditioning | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        """The prediction, float32.

        Args:
          x: noisy latent; its sides must be multiples of `downsampling_factor`.
          t: model timesteps 0..T-1, whole or fractional.
          cond: what else is known; see `Conditioning` for how each slot is used.
          train: whether dropout is on.

        Raises:
          ValueError: if the fields contradict one another or the inputs do not fit.
        """
        cond = Conditioning() if cond is None else cond
        self._check_fields()
        self._check_inputs(x, cond)
        emb = TimeEmbedding(self.model_channels, self.dtype, name="time_embed")(t)
        if cond.vector is not None:
            emb = emb + cond.vector.astype(emb.dtype)
        emb = nn.silu(emb)
        if cond.concat is not None:
            x = jnp.concatenate([x, cond.concat.astype(x.dtype)], axis=-1)
        h = self._conv(self.model_channels, "conv_in")(x)
        h = self._body(h, emb, cond.tokens, train)
        h = GroupNorm(self.num_groups, dtype=self.dtype, epsilon=1e-5, name="norm_out")(
            h
        )
        zeros = nn.initializers.zeros_init()
        conv_out = self._conv(
            self.out_channels, "conv_out", kernel_init=zeros, bias_init=zeros
        )
        return conv_out(nn.silu(h)).astype(jnp.float32)

    def _body(
        self, h: jax.Array, emb: jax.Array, tokens: jax.Array | None, train: bool
    ) -> jax.Array:
        """Down, middle, up; every output on the way down, the stem's too, is a skip."""
        last = len(self.channel_mult) - 1
        skips = [h]
        for level in range(last + 1):
            h, new_skips = DownLevel(
                self.num_res_blocks,
                self._block_maker(level),
                self._attention_maker(level) if self.has_attention(level) else None,
                self._resample(level, "down") if level < last else None,
                name=f"down_{level}",
            )(h, emb, tokens, train)
            skips += new_skips
        h = Middle(self._block_maker(last), self._attention_maker(last), name="mid")(
            h, emb, tokens, train
        )
        for level in reversed(range(last + 1)):
            taken = [skips.pop() for _ in range(self.num_res_blocks + 1)]
            h = UpLevel(
                self._block_maker(level),
                self._attention_maker(level) if self.has_attention(level) else None,
                self._resample(level, "up") if level > 0 else None,
                name=f"up_{level}",
            )(h, taken, emb, tokens, train)
        return h

    @property
    def downsampling_factor(self) -> int:
        """The sides of the latent must be multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def embedding_dim(self) -> int:
        """Width of the time embedding and of `Conditioning.vector`."""
        return 4 * self.model_channels

    def has_attention(self, level: int) -> bool:
        """Whether the residual blocks of a level are followed by attention."""
        return 2**level in self.attention_resolutions

    def _features(self, level: int) -> int:
        return self.channel_mult[level] * self.model_channels

    def _block_maker(self, level: int, resample: Direction = "none") -> MakeLayer:
        block = self._remat(ResnetBlock, static_argnums=(3,))  # train
        return partial(
            block,
            self._features(level),
            time_conditioning=self.time_conditioning,
            resample=resample,
            dropout=self.dropout,
            num_groups=self.num_groups,
            dtype=self.dtype,
        )

    def _remat(self, layer: type[nn.Module], **static: Any) -> type[nn.Module]:
        if self.remat == "none":
            return layer
        return nn.remat(layer, policy=_KEPT[self.remat], **static)

    def _resample(self, level: int, direction: Direction) -> Resample:
        name = f"{direction}sample"
        if self.resampling == "resblock":
            make_block = self._block_maker(level, direction)
            return lambda x, emb, train: make_block(name=name)(x, emb, train)
        if self.resampling == "pool":
            return lambda x, emb, train: resampled(x, direction)
        conv = Upsample if direction == "up" else partial(Downsample, padding=1)
        return lambda x, emb, train: conv(dtype=self.dtype, name=name)(x)

    def _attention_maker(self, level: int) -> MakeLayer:
        is_plain = self.attention == "plain"
        layer = self._remat(AttentionBlock if is_plain else SpatialTransformer)
        layer = partial(
            layer,
            self._heads_at(level),
            num_groups=self.num_groups,
            dtype=self.dtype,
        )
        if is_plain:
            return partial(layer, order=self.attention_order)
        return partial(
            layer,
            depth=self.transformer_depth,
            projection=self.transformer_projection,
        )

    def _heads_at(self, level: int) -> int:
        channels = self._features(level)
        divisor = self.num_heads or self.num_head_channels
        if divisor is None or channels % divisor:
            field = "num_heads" if self.num_heads else "num_head_channels"
            raise ValueError(
                f"level {level} of the U-Net has {channels} channels, which "
                f"backbone.{field}={divisor} does not divide"
            )
        return self.num_heads or channels // divisor

    def _conv(self, features: int, name: str, **init: Any) -> nn.Module:
        return Conv(features, padding=1, dtype=self.dtype, name=name, **init)

    def _check_fields(self) -> None:
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in get_args(choices):
                raise ValueError(
                    f"backbone.{field} is {value!r}; it must be one of "
                    f"{get_args(choices)}"
                )
        if (self.num_heads is None) == (self.num_head_channels is None):
            raise ValueError(
                "exactly one of backbone.num_heads and backbone.num_head_channels must "
                f"be given, not {self.num_heads} and {self.num_head_channels}"
            )
        if not self.channel_mult or self.channel_mult[0] != 1:
            raise ValueError(
                f"backbone.channel_mult is {self.channel_mult}; it must start with 1, "
                "set backbone.model_channels for the width of the first level"
            )
        if self.model_channels % self.num_groups:
            raise ValueError(
                f"backbone.model_channels={self.model_channels} must be a multiple of "
                f"backbone.num_groups={self.num_groups}"
            )

    def _check_inputs(self, x: jax.Array, cond: Conditioning) -> None:
        factor = self.downsampling_factor
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"the latent is {x.shape[1]}x{x.shape[2]} but a U-Net of "
                f"{len(self.channel_mult)} levels needs sides that are multiples of "
                f"{factor}; change the image size or backbone.channel_mult"
            )
        if cond.tokens is not None and self.attention == "plain":
            raise ValueError(
                "the conditioner gives tokens but backbone.attention='plain' cannot "
                "read them; use 'transformer'"
            )
        if cond.concat is not None and cond.concat.shape[:3] != x.shape[:3]:
            raise ValueError(
                f"the map to join has shape {cond.concat.shape} but the latent "
                f"{x.shape}; batch and sides must agree"
            )
        if cond.vector is not None and cond.vector.shape[-1] != self.embedding_dim:
            raise ValueError(
                f"the conditioning vector is {cond.vector.shape[-1]} wide but the time "
                f"embedding 4 * model_channels = {self.embedding_dim}"
            )
