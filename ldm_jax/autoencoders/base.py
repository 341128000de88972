"""The frame that the KL and VQ autoencoders fill in."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from ldm_jax.autoencoders.convnet import Decoder, Encoder, Topology
from ldm_jax.nn import initializers
from ldm_jax.nn.dense import Dense

QUANT_INITS = {
    "torch": initializers.uniform_kernel,
    "identity": lambda key, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype),
}


class Autoencoder(nn.Module):
    """Encoder, bottleneck and decoder; call methods by `apply(..., method="encode")`.

    A subclass sets `moments_per_channel` and gives `encode`, `bottleneck` and `decode`.
    Images are `[b H W c]` in [-1, 1]. Latents are float32 `[b h w embed_dim]`.

    Attributes:
      z_channels: channels between encoder or decoder and the 1x1 convolutions.
      embed_dim: channels of the latent.
      ch, ch_mult: width at full resolution, and its factor at each level.
      num_res_blocks: per level of the encoder; the decoder has one more.
      attn_resolutions: image sizes (of a `resolution` sized input) with attention.
      mid_attention: attention at the lowest resolution.
      dropout: active exactly when `apply` gets a "dropout" stream.
      num_groups: of every group norm; must divide every width.
      dtype: compute dtype; statistics, softmax and the bottleneck stay float32.
      remat: "blocks" recomputes residual blocks in the backward pass.
      quant_init: of the 1x1 convolutions around the latent. "torch", as in the original,
        shrinks the latent below its own noise and its biases, which costs the first
        hundreds of steps; "identity" spares a short training those.
    """

    z_channels: int
    embed_dim: int
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    resolution: int = 256
    mid_attention: bool = True
    dropout: float = 0.0
    num_groups: int = 32
    image_channels: int = 3
    dtype: Any = jnp.float32
    remat: Literal["none", "blocks"] = "none"
    quant_init: Literal["torch", "identity"] = "torch"

    moments_per_channel = 1  # a class constant, not a field

    def setup(self):
        topology = Topology(
            ch=self.ch,
            ch_mult=tuple(self.ch_mult),
            num_res_blocks=self.num_res_blocks,
            attn_resolutions=tuple(self.attn_resolutions),
            resolution=self.resolution,
            mid_attention=self.mid_attention,
            dropout=self.dropout,
            num_groups=self.num_groups,
            dtype=self.dtype,
            remat=self.remat,
        )
        moments = self.moments_per_channel
        self.encoder = Encoder(topology, moments * self.z_channels)
        kernel_init = QUANT_INITS[self.quant_init]
        self.quant_conv = Dense(
            moments * self.embed_dim,
            kernel_init=kernel_init,
            bias_init=self.moments_bias_init(),
            dtype=jnp.float32,
        )
        self.post_quant_conv = Dense(
            self.z_channels, kernel_init=kernel_init, dtype=jnp.float32
        )
        self.decoder = Decoder(topology, self.image_channels)

    @property
    def downsampling_factor(self) -> int:
        """Image size / latent size, f."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def latent_channels(self) -> int:
        return self.embed_dim

    def moments_bias_init(self) -> Initializer | None:
        """Of `quant_conv`; None for torch's default."""
        return None

    def encode_moments(self, image: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Encoder and `quant_conv`: the array that `encode` wraps.

        Raises:
          ValueError: if the image is smaller than one latent pixel.
        """
        f = self.downsampling_factor
        if min(image.shape[1:3]) < f:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} pixels is smaller than one "
                f"latent pixel of this autoencoder ({f}x{f}): use larger images"
            )
        return self.quant_conv(self.encoder(image))

    def decode_features(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """The decoder's last hidden layer for a sampled or quantised latent."""
        return self.decoder.features(self.post_quant_conv(z))

    def to_image(self, features: Float[Array, "b H W d"]) -> Float[Array, "b H W c"]:
        """The last convolution (parameters `decoder/conv_out`), float32."""
        return self.decoder.to_image(features).astype(jnp.float32)

    def __call__(
        self, image: Float[Array, "b H W c"], key: jax.Array
    ) -> Float[Array, "b H W c"]:
        """Reconstruction through the bottleneck; creates every parameter in `init`."""
        z, _, _ = self.bottleneck(self.encode(image), key)
        return self.to_image(self.decode_features(z))
