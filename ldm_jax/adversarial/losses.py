"""Losses of the discriminator and of the generator, by the names configs use."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Logits = Float[Array, "b h w 1"]


def hinge_loss(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Half the sum of the mean hinges: real logits above 1, fake ones below -1."""
    real = jax.nn.relu(1 - logits_real).mean()
    fake = jax.nn.relu(1 + logits_fake).mean()
    return 0.5 * (real + fake)


def vanilla_loss(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Half the sum of the mean cross-entropies (Goodfellow et al. 2014)."""
    real = jax.nn.softplus(-logits_real).mean()
    fake = jax.nn.softplus(logits_fake).mean()
    return 0.5 * (real + fake)


def generator_loss(logits_fake: Logits) -> Float[Array, ""]:
    """What the generator minimises against either loss: -mean(logits)."""
    return -jnp.mean(logits_fake)


DISCRIMINATOR_LOSSES: Mapping[str, Callable[[Logits, Logits], jax.Array]] = {
    "hinge": hinge_loss,
    "vanilla": vanilla_loss,
}
