"""The variational autoencoder with a small KL penalty."""

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from ldm_jax.autoencoders.base import Autoencoder
from ldm_jax.autoencoders.latent import Gaussian

INITIAL_LOGVAR = -6.0  # of a latent that starts as the identity's


class KLAutoencoder(Autoencoder):
    """Latents are samples of a Gaussian posterior. Rombach et al. 2022, section 3.1."""

    moments_per_channel = 2

    def moments_bias_init(self) -> Initializer | None:
        """With `quant_init="identity"`, a posterior that starts narrow."""
        if self.quant_init != "identity":
            return None

        def init(key, shape, dtype=None, out_sharding=None):
            del key, out_sharding
            return (
                jnp.zeros(shape, dtype or jnp.float32)
                .at[self.embed_dim :]
                .set(INITIAL_LOGVAR)
            )

        return init

    def encode(self, image: Float[Array, "b H W c"]) -> Gaussian:
        """The posterior of each image."""
        return Gaussian.from_moments(self.encode_moments(image))

    def bottleneck(
        self, latent: Gaussian, key: jax.Array
    ) -> tuple[Float[Array, "b h w c"], Float[Array, ""], dict[str, Float[Array, ""]]]:
        """A sample, its KL to N(0, 1) (sum over dimensions, mean over the batch), metrics.

        The original's weight of 1e-6 belongs to a reconstruction loss that is summed over
        pixels in the same way.
        """
        metrics = {"posterior_std": jnp.exp(0.5 * latent.logvar).mean()}
        return latent.sample(key), latent.kl().mean(), metrics

    def decode(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        """Latent (unscaled) -> image."""
        return self.to_image(self.decode_features(z))
