"""Rows of the first stage: encoding and decoding (its training: `first_stage_training`)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import references
from benchmarks.compiled import compiled
from benchmarks.networks import first_stage, random_params
from benchmarks.rows import Setting, Sides
from ldm_jax.nn.jit import jit


def encode(setting: Setting, name: str, batch_size: int, side: int) -> Sides:
    """Pictures `[b side side 3]` to what the latent is made of."""
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (batch_size, side, side, 3)).astype(np.float32)
    return _sides(setting, name, image, side, "encode_moments", _encode)


def decode(setting: Setting, name: str, batch_size: int, side: int) -> Sides:
    """Latents to pictures `[b side side 3]`."""
    module = first_stage(name, setting.dtype)
    small = side // module.downsampling_factor
    shape = (batch_size, small, small, module.embed_dim)
    z = np.random.default_rng(0).standard_normal(shape, np.float32)
    return _sides(setting, name, z, side, "decode", _decode)


def shapes(module: Any, side: int) -> Any:
    """Of the parameters."""
    image, key = jnp.zeros((1, side, side, 3)), jax.random.key(0)
    return jax.eval_shape(module.init, key, image, key)["params"]


def _encode(model: Any, x: Any) -> Any:
    encoded = model.encode(x)
    if hasattr(encoded, "latents"):
        return encoded.latents
    return encoded.latent_dist.parameters


def _decode(model: Any, z: Any) -> Any:
    if hasattr(model, "quantize"):  # ours takes what is quantised already
        z = model.quantize(z)[0]
        return model.decoder(model.post_quant_conv(z))
    return model.decode(z).sample


def _sides(
    setting: Setting, name: str, given: np.ndarray, side: int, method: str, theirs: Any
) -> Sides:
    module = first_stage(name, setting.dtype)
    host = random_params(shapes(module, side))
    params = jax.tree.map(lambda p: jnp.asarray(p, setting.dtype), host)
    x = jnp.asarray(given, setting.dtype)

    def apply(params, x):
        return module.apply({"params": params}, x, method=method)

    ours = compiled(jit(apply), params, x)
    calls = {}
    if setting.references:
        model = references.autoencoder(first_stage(name, "float32"), host, side)
        model = references.on_device(setting, model).requires_grad_(False)

        def make_call(model, order):
            y = references.tensor(setting, given, order)
            return references.finished(setting, lambda: theirs(model, y))

        calls = references.variants(setting, model, make_call)
    return Sides(
        lambda: jax.block_until_ready(ours.call(params, x)),
        calls,
        len(given),
        "images",
        ours.peak_bytes,
        ours.seconds,
    )
