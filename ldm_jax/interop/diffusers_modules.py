"""Our modules and their parameter shapes from plain config sections."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax import trees
from ldm_jax.autoencoders import AUTOENCODERS
from ldm_jax.autoencoders.base import Autoencoder
from ldm_jax.backbones import BACKBONES
from ldm_jax.backbones.unet import UNet
from ldm_jax.conditioners import CONDITIONERS
from ldm_jax.conditioners.clip_text import ClipText
from ldm_jax.conditioners.token_transformer import TokenTransformer
from ldm_jax.interop.diffusers_conditioner import used_layers
from ldm_jax.nn.conditioning import Conditioning

Section = Mapping[str, Any]
Shapes = dict[str, jax.ShapeDtypeStruct]
TextEncoder = ClipText | TokenTransformer


def unet_of(section: Section, out_channels: int) -> UNet:
    """The backbone of a section; fields that only training knows are left out.

    Raises:
      ValueError: if it is no U-Net.
    """
    if section["name"] != "unet":
        raise ValueError(
            f"diffusers has no counterpart of the backbone {section['name']!r}: export "
            "with --format=compvis"
        )
    return _module(BACKBONES, section, out_channels=out_channels)


def autoencoder_of(section: Section) -> Autoencoder:
    """The first stage of a section."""
    return _module(AUTOENCODERS, section)


def text_encoder_of(section: Section) -> TextEncoder:
    """The text encoder of a section, without blocks that do not count."""
    # Dropping texts needs the ids of an empty one, which no section has.
    encoder = _module(CONDITIONERS, {**section, "drop_rate": 0.0})
    if isinstance(encoder, ClipText) and encoder.output == "penultimate":
        return encoder.clone(num_layers=used_layers(encoder), output="last")
    return encoder


@functools.lru_cache(maxsize=16)
def unet_shapes(unet: UNet, in_channels: int, tokens_dim: int | None) -> Shapes:
    """Shapes of a U-Net's parameters by flat name."""
    side = unet.downsampling_factor

    def init(key: jax.Array) -> Any:
        tokens = None if tokens_dim is None else jnp.zeros((1, 2, tokens_dim))
        x = jnp.zeros((1, side, side, in_channels))
        return unet.init(key, x, jnp.zeros(1), Conditioning(tokens=tokens))

    return _shapes(init)


@functools.lru_cache(maxsize=16)
def autoencoder_shapes(autoencoder: Autoencoder) -> Shapes:
    """Shapes of a first stage's parameters by flat name."""
    side = autoencoder.downsampling_factor
    image = jnp.zeros((1, side, side, autoencoder.image_channels))
    return _shapes(lambda key: autoencoder.init(key, image, key))


@functools.lru_cache(maxsize=16)
def text_encoder_shapes(encoder: TextEncoder) -> Shapes:
    """Shapes of a text encoder's parameters by flat name."""
    tokens = jnp.zeros((1, encoder.max_length), jnp.int32)
    return _shapes(lambda key: encoder.init(key, {encoder.field: tokens}))


def _module(table: Mapping[str, Any], section: Section, **derived: Any) -> Any:
    constructor: type[nn.Module] = table[section["name"]]
    fields = {f.name for f in dataclasses.fields(constructor)} - {"name", "parent"}
    values = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in section.items()
        if name in fields and value is not None
    }
    return constructor(**values, **derived)


def _shapes(init: Any) -> Shapes:
    variables = jax.eval_shape(init, jax.random.key(0))
    return trees.flatten(variables["params"])
