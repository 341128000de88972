"""A sampler is two pure functions; one `sample` runs any of them in one `lax.scan`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ldm_jax.diffusion.denoise import DenoiseFn
from ldm_jax.rng import step_key

SamplerState = Any


@dataclasses.dataclass(frozen=True)
class Sampler:
    """From noise to data in `num_steps` steps.

    Attributes:
      init: `x -> state`; what the sampler remembers between steps, any pytree.
      step: `(denoise_fn, x, state, index, key) -> (x, state)`. `index` is a traced int32
        that counts from 0 (pure noise) to num_steps - 1; it may call `denoise_fn` more
        than once. `key` is one key or `[b]` of them, which `normal_like` understands.
      num_steps: how often `step` runs.
    """

    init: Callable[[Array], SamplerState]
    step: Callable[
        [DenoiseFn, Array, SamplerState, Array, Array], tuple[Array, SamplerState]
    ]
    num_steps: int


def sample(
    denoise_fn: DenoiseFn,
    sampler: Sampler,
    x_T: Float[Array, "b ..."],
    key: jax.Array,
) -> Float[Array, "b ..."]:
    """Run a sampler from standard normal noise `x_T`; the result has its shape and dtype.

    `key` is one key, or `[b]` of them to draw each example's noise from its own.
    Not jitted: the caller jits it together with the model behind `denoise_fn`.
    """

    def body(carry, index):
        x, state = carry
        x, state = sampler.step(denoise_fn, x, state, index, step_key(key, index))
        return (x.astype(x_T.dtype), state), None

    indices = jnp.arange(sampler.num_steps)
    (x, _), _ = jax.lax.scan(body, (x_T, sampler.init(x_T)), indices)
    return x


def no_state(x: Array) -> tuple:
    """`init` of a sampler that remembers nothing."""
    del x
    return ()
