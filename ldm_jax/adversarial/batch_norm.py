"""Batch normalisation with torch's semantics, which the published weights assume."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _scale_init(key, shape, dtype=jnp.float32):
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


class BatchNorm(nn.Module):
    """Normalise over batch and space; running statistics in collection `batch_stats`.

    Differs from linen's: `momentum` is the share of the new batch, and the running
    variance is unbiased. Statistics are taken in float32 over the whole global batch;
    the original, without synchronised statistics, took each device's own.

    Attributes:
      momentum: running = (1 - momentum) * running + momentum * batch.
      epsilon: added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        """Batch statistics if `train`, which also moves the running ones; else those."""
        channels = x.shape[-1]
        scale = self.param("scale", _scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean_var = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        if train:
            mean = x.mean(axis=(0, 1, 2))
            var = jnp.square(x - mean).mean(axis=(0, 1, 2))
            self._update(mean_var, mean)
            count = x.size // channels
            self._update(var_var, var * (count / max(count - 1, 1)))
        else:
            mean, var = mean_var.value, var_var.value
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon) * scale + bias

    def _update(self, variable: nn.Variable, batch_value: jax.Array) -> None:
        if not self.is_initializing():
            batch_value = jax.lax.stop_gradient(batch_value)
            old = variable.value
            variable.value = old + self.momentum * (batch_value - old)
