"""Vector quantisation: nearest codebook entry, straight-through gradient, losses.

van den Oord et al. 2017, arXiv:1711.00937.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ldm_jax.nn.initializers import symmetric_uniform
from ldm_jax.nn.placement import gathered

CodebookLoss = Literal["legacy", "paper"]


def nearest_codes(
    z: Float[Array, "b h w c"], codebook: Float[Array, "k c"]
) -> Int[Array, "b h w"]:
    """Index of the entry nearest to each vector (Euclidean; the lowest wins ties)."""
    # |z|^2 is the same for every entry. Full precision: a product in TF32 or bfloat16
    # picks other entries.
    products = jnp.einsum("bhwc,kc->bhwk", z, codebook, precision=lax.Precision.HIGHEST)
    return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * products, axis=-1)


def straight_through(
    z: Float[Array, "*s c"], z_q: Float[Array, "*s c"]
) -> Float[Array, "*s c"]:
    """The value of `z_q` with the gradient of `z`."""
    return z + lax.stop_gradient(z_q - z)


def codebook_loss(
    z: Float[Array, "*s c"],
    z_q: Float[Array, "*s c"],
    *,
    beta: float = 0.25,
    form: CodebookLoss = "legacy",
) -> Float[Array, ""]:
    """Mean squared distance, once for the encoder and once for the codebook.

    "paper": codebook term + beta * commitment term (arXiv:1711.00937, eq. 3).
    "legacy": commitment term + beta * codebook term, the swapped weights with which every
    published VQ first stage was trained.

    Raises:
      ValueError: for another `form`.
    """
    commitment = jnp.square(lax.stop_gradient(z_q) - z).mean()
    codebook = jnp.square(z_q - lax.stop_gradient(z)).mean()
    if form == "legacy":
        return commitment + beta * codebook
    if form == "paper":
        return codebook + beta * commitment
    raise ValueError(f'codebook_loss must be "legacy" or "paper", not {form!r}')


def usage(
    indices: Int[Array, "*s"], num_embeddings: int
) -> dict[str, Float[Array, ""]]:
    """How many codes a batch uses: exp(entropy) and the number that occur at all."""
    counts = jnp.bincount(indices.ravel(), length=num_embeddings)
    p = counts / indices.size
    perplexity = jnp.exp(-(p * jnp.log(p + 1e-10)).sum())
    return {"perplexity": perplexity, "usage": (counts > 0).sum().astype(jnp.float32)}


class Quantizer(nn.Module):
    """A codebook of `num_embeddings` vectors, parameter `embedding [k, c]`.

    Starts as uniform(-1/k, 1/k), as in the original.
    """

    num_embeddings: int
    embed_dim: int

    def setup(self):
        k = self.num_embeddings
        self.embedding = self.param(
            "embedding", symmetric_uniform(1 / k), (k, self.embed_dim), jnp.float32
        )

    def indices(self, z: Float[Array, "b h w c"]) -> Int[Array, "b h w"]:
        """The code of each vector."""
        return nearest_codes(z, gathered(self.embedding))

    def lookup(self, indices: Int[Array, "b h w"]) -> Float[Array, "b h w c"]:
        """The vector of each code."""
        return gathered(self.embedding)[indices]
