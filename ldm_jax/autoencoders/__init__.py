"""First stages: image <-> latent. Config names on the left."""

from ldm_jax.autoencoders.kl import KLAutoencoder
from ldm_jax.autoencoders.latent import Code, Gaussian
from ldm_jax.autoencoders.vq import VQAutoencoder

AUTOENCODERS = {"kl": KLAutoencoder, "vq": VQAutoencoder}

__all__ = ["AUTOENCODERS", "Code", "Gaussian", "KLAutoencoder", "VQAutoencoder"]
