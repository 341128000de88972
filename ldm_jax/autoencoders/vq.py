"""The autoencoder with a discrete bottleneck."""

import jax
from jaxtyping import Array, Float, Int

from ldm_jax.autoencoders import quantizer
from ldm_jax.autoencoders.base import Autoencoder
from ldm_jax.autoencoders.latent import Code


class VQAutoencoder(Autoencoder):
    """Latents are quantised inside the decoder. Rombach et al. 2022, section 3.1.

    A diffusion model learns the latent before quantisation (`encode`), and `decode`
    quantises what it is given.

    Attributes:
      num_embeddings: codebook entries.
      beta, codebook_loss: see `quantizer.codebook_loss`.
    """

    num_embeddings: int = 8192
    beta: float = 0.25
    codebook_loss: quantizer.CodebookLoss = "legacy"

    def setup(self):
        super().setup()
        self.quantizer = quantizer.Quantizer(self.num_embeddings, self.embed_dim)

    def encode(self, image: Float[Array, "b H W c"]) -> Code:
        """The latent before quantisation."""
        return Code(self.encode_moments(image))

    def bottleneck(
        self, latent: Code, key: jax.Array
    ) -> tuple[Float[Array, "b h w c"], Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Quantised latent with straight-through gradient, codebook loss, code usage."""
        del key
        indices = self.quantizer.indices(latent.z)
        z_q = self.quantizer.lookup(indices)
        loss = quantizer.codebook_loss(
            latent.z, z_q, beta=self.beta, form=self.codebook_loss
        )
        metrics = quantizer.usage(indices, self.num_embeddings)
        return quantizer.straight_through(latent.z, z_q), loss, metrics

    def quantize(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The codebook entry nearest to each vector."""
        return self.quantizer.lookup(self.quantizer.indices(z))

    def code_indices(self, z: Float[Array, "b h w c"]) -> Int[Array, "b h w"]:
        """The number of that entry."""
        return self.quantizer.indices(z)

    def decode(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        """Latent (unscaled) -> quantised -> image.

        To decode without quantising: `to_image(decode_features(z))`.
        """
        return self.to_image(self.decode_features(self.quantize(z)))

    def decode_indices(self, indices: Int[Array, "b h w"]) -> Float[Array, "b H W c"]:
        """Codes -> image."""
        return self.to_image(self.decode_features(self.quantizer.lookup(indices)))
