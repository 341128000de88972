"""Distances between the network's output and its target, one number for each image.

Of a difference `[b ...]` a norm gives `[b]`, a mean over all the other axes.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Norm = Callable[[Float[Array, "b ..."]], Float[Array, " b"]]


def l1() -> Norm:
    """Mean absolute difference."""
    return lambda difference: _mean(jnp.abs(difference))


def l2() -> Norm:
    """Mean squared difference."""
    return lambda difference: _mean(jnp.square(difference))


def huber(delta: float = 1.0) -> Norm:
    """Huber's loss of each element, as `torch.nn.HuberLoss`.

    `d^2 / 2` up to |d| = delta, `delta (|d| - delta / 2)` beyond: half of `l2` near 0.

    Raises:
      ValueError: if delta is not positive.
    """
    if not delta > 0:
        raise ValueError(f"Huber's delta is {delta}: give a positive number")

    def norm(difference: Array) -> Array:
        size = jnp.abs(difference)
        inner = jnp.minimum(size, delta)
        return _mean(inner * (size - inner / 2))

    return norm


def pseudo_huber(c: float = 0.00054) -> Norm:
    """`sqrt(m + c^2) - c` of the mean square m: one root for each image, not each element.

    Song & Dhariwal 2024 (improved consistency training), who sum the d elements of an
    image instead, with `0.00054 sqrt(d)` for c: `sqrt(d)` times this. For a large c it
    is `l2 / (2 c)`.

    Raises:
      ValueError: if c is not positive.
    """
    if not c > 0:
        raise ValueError(f"pseudo-Huber's c is {c}: give a positive number")

    def norm(difference: Array) -> Array:
        m = _mean(jnp.square(difference))
        return m / (jnp.sqrt(m + c**2) + c)  # the same without cancellation

    return norm


def _mean(x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return x.mean(axis=tuple(range(1, x.ndim)))
