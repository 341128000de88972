"""Initialisers of the original models: torch's defaults, and zero for output layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, variance_scaling

# Kernels [kh, kw, in, out] or [in, out]: uniform(+-1/sqrt(fan_in)), torch's default for
# convolutions and linear layers. variance_scaling draws uniform(+-sqrt(3 * scale / fan)).
uniform_kernel: Initializer = variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(fan_in: int) -> Initializer:
    """uniform(+-1/sqrt(fan_in)), torch's default bias of a layer with `fan_in` inputs."""
    return symmetric_uniform(1 / math.sqrt(fan_in))


def symmetric_uniform(bound: float) -> Initializer:
    """uniform(-bound, bound)."""

    def init(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype or jnp.float32, -bound, bound)

    return init


# Of `nn.transformer.Transformer`.
TABLES = ("token_embedding", "position_embedding")
TABLE_STD = 0.02


def unit_gain(params: Any) -> Any:
    """Torch's default initial values, rescaled so that layers keep their input's variance.

    Kernels times sqrt(3), biases zero; the second convolution of a residual block
    (`conv2`) keeps its kernel and with it a small branch, and what starts at zero or as
    an identity around the latent (`quant_conv`, `post_quant_conv`) stays as it is. The
    tables of a text encoder, which start from N(0, 0.02), get unit variance: else what
    attention averages drowns the tokens, and a short training never hears them. A
    training of hundreds of steps gets much further from here; a long one does not care.
    """

    def rescale(path: tuple, value: jax.Array) -> jax.Array:
        names = [str(entry.key) for entry in path]
        if any(name.endswith("quant_conv") for name in names):
            return value
        if any(name in TABLES for name in names):
            return value / TABLE_STD
        if names[-1] == "bias":
            return jnp.zeros_like(value)
        is_branch_end = "conv2" in names
        return (
            value * math.sqrt(3)
            if names[-1] == "kernel" and not is_branch_end
            else value
        )

    return jax.tree_util.tree_map_with_path(rescale, params)


INITS = {"torch": lambda params: params, "unit_gain": unit_gain}
