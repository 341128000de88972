"""Initialisers of the original models: torch's defaults, and zero for output layers."""

import math

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
