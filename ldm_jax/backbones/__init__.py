"""Denoiser networks: (x, t, conditioning) -> prediction. `BACKBONES` lists them."""

from ldm_jax.backbones.unet import UNet

BACKBONES = {"unet": UNet}

__all__ = ["BACKBONES", "UNet"]
