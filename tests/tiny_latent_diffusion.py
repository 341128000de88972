"""The smallest parts that satisfy the contracts, for tests of what composes them."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.autoencoders.latent import Gaussian
from ldm_jax.conditioners import ClassLabel
from ldm_jax.diffusion import PREDICTIONS, SCHEDULES
from ldm_jax.latent_diffusion import LatentDiffusion


class TinyAutoencoder(nn.Module):
    """Strided convolutions: [b 8 8 3] <-> [b 4 4 2]."""

    moments_per_channel: ClassVar[int] = 2
    downsampling_factor: ClassVar[int] = 2
    latent_channels: ClassVar[int] = 2

    def setup(self):
        self.down = nn.Conv(4, (2, 2), strides=2)
        self.up = nn.ConvTranspose(3, (2, 2), strides=(2, 2))

    def encode(self, image):
        return Gaussian.from_moments(self.down(image))

    def decode(self, z):
        return self.up(z)

    def __call__(self, image, key):
        return self.decode(self.encode(image).sample(key))


class TinyBackbone(nn.Module):
    """Two convolutions with the time and the condition added in between."""

    width: int = 32

    @nn.compact
    def __call__(self, x, t, cond, *, train=False):
        time = t.astype(jnp.float32)[:, None] / 1000 * jnp.arange(1.0, 17.0)
        embedding = nn.Dense(self.width)(
            jnp.concatenate([jnp.sin(time), jnp.cos(time)], -1)
        )
        if cond.tokens is not None:
            embedding += nn.Dense(self.width)(cond.tokens.mean(1))
        inputs = x if cond.concat is None else jnp.concatenate([x, cond.concat], -1)
        h = nn.Conv(self.width, (3, 3))(inputs) + embedding[:, None, None]
        h = nn.Dropout(0.1, deterministic=not train)(nn.silu(h))
        return nn.Conv(x.shape[-1], (3, 3))(h)


def tiny_model(
    *, prediction="eps", num_timesteps=1000, conditioner=None, autoencoder=None
):
    return LatentDiffusion(
        autoencoder or TinyAutoencoder(),
        TinyBackbone(),
        conditioner,
        SCHEDULES["linear"](num_timesteps, 0.0015, 0.0195),
        PREDICTIONS[prediction],
    )


def tiny_class_conditioner():
    return ClassLabel(num_classes=5, embed_dim=8, drop_rate=0.1)


def tiny_batch(batch_size=4):
    image = jax.random.uniform(
        jax.random.key(7), (batch_size, 8, 8, 3), minval=-1, maxval=1
    )
    return {"image": image, "class_label": jnp.arange(batch_size) % 5}


def tiny_params(ldm, batch):
    """(params, frozen) of a model."""
    key = jax.random.key(0)
    frozen = jax.jit(ldm.autoencoder.init)(key, batch["image"], key)["params"]
    return jax.jit(ldm.init_params)(key, batch), {"autoencoder": frozen}
