"""What an encoder returns: a distribution over latents, or one latent.

Both answer `sample(key)` and `mode()`, and turn into one array `moments` (to be cached on
disk) and back.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax import arrays

LOGVAR_RANGE = (-30.0, 20.0)


@flax.struct.dataclass
class Gaussian:
    """Diagonal Gaussian posterior, `mean` and `logvar` both `[b h w c]` float32."""

    mean: Float[Array, "b h w c"]
    logvar: Float[Array, "b h w c"]

    @classmethod
    def from_moments(cls, moments: Float[Array, "b h w m"]) -> "Gaussian":
        """Split channels into mean | log-variance; clamps the latter to [-30, 20]."""
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return cls(mean, jnp.clip(logvar, *LOGVAR_RANGE))

    @property
    def moments(self) -> Float[Array, "b h w m"]:
        return jnp.concatenate([self.mean, self.logvar], axis=-1)

    def sample(self, key: jax.Array) -> Float[Array, "b h w c"]:
        noise = arrays.normal_like(key, self.mean)
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def mode(self) -> Float[Array, "b h w c"]:
        return self.mean

    def kl(self) -> Float[Array, "b"]:
        """KL(self || N(0, 1)) in nats, summed over each example's dimensions."""
        terms = self.mean**2 + jnp.exp(self.logvar) - 1 - self.logvar
        return 0.5 * terms.sum((1, 2, 3))


@flax.struct.dataclass
class Code:
    """A latent before quantisation: the point that a VQ encoder puts out."""

    z: Float[Array, "b h w c"]

    @classmethod
    def from_moments(cls, moments: Float[Array, "b h w c"]) -> "Code":
        return cls(moments)

    @property
    def moments(self) -> Float[Array, "b h w c"]:
        return self.z

    def sample(self, key: jax.Array) -> Float[Array, "b h w c"]:
        """`z`: there is nothing random to draw."""
        del key
        return self.z

    def mode(self) -> Float[Array, "b h w c"]:
        return self.z
