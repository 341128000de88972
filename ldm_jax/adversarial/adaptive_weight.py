"""The weight that balances the adversarial loss (Esser et al. 2021, VQGAN, eq. 7)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Image = Float[Array, "b H W c"]

MAX_ADAPTIVE_WEIGHT = 1e4
_EPS = 1e-4


def adaptive_weight(
    to_image: Callable[[jax.Array], Image],
    kernel: Float[Array, "kh kw c d"],
    reconstruction_gradient: Image,
    adversarial_gradient: Image,
) -> Float[Array, ""]:
    """Ratio of two gradients' norms at the decoder's last kernel, in [0, 1e4].

    Both losses are given by their gradients with respect to the image, so the networks
    that made them are not differentiated again: one convolution is.

    Args:
      to_image: the image as a function of the last layer's kernel.
      kernel: where the gradients are compared.
      reconstruction_gradient: d(reconstruction loss) / d(image).
      adversarial_gradient: d(generator loss) / d(image).
    """
    _, vjp = jax.vjp(to_image, kernel)
    reconstruction_norm, adversarial_norm = (
        jnp.linalg.norm(vjp(gradient)[0].astype(jnp.float32).ravel())
        for gradient in (reconstruction_gradient, adversarial_gradient)
    )
    weight = reconstruction_norm / (adversarial_norm + _EPS)
    return jax.lax.stop_gradient(jnp.clip(weight, 0, MAX_ADAPTIVE_WEIGHT))
