"""Draw the unknown part of data whose rest is known (inpainting), with any sampler."""

import math
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.denoise import diffuse_to
from ldm_jax.rng import named_key, step_key
from ldm_jax.samplers.base import Sampler

# How much of the noise's variance a resampling replaces.
_FRESH_SHARE = 0.5


class Known(NamedTuple):
    """Data to keep, and where; a pytree, traced under `jit`.

    Two conventions meet here: samplers (the reference's too) are told what to *keep*,
    masks of inpainting data sets mark the *hole*. `Known(x0, keep)` takes the one,
    `Known.outside(x0, hole)` the other.

    Attributes:
      x0: `[b ...]`, clean data; finite in the hole as well.
      keep: 1 where x0 is known, 0 where it is to be drawn, or between; broadcasts
        against x0, as `[b h w 1]` does.
    """

    x0: Float[Array, "b ..."]
    keep: Shaped[Array, "..."]

    @classmethod
    def outside(cls, x0: Float[Array, "b ..."], hole: Shaped[Array, "..."]) -> Self:
        """Known but for the hole, which is 1 (or True) where data is to be drawn."""
        return cls(x0, 1 - jnp.asarray(hole, x0.dtype))

    def composite(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """x with the known data in its place, to the bit where keep is 1."""
        return _blend(self.keep, self.x0, x)


def masked(
    sampler: Sampler, known: Known, key: jax.Array, *, num_resamplings: int = 0
) -> Sampler:
    """The sampler with known data held in place; run it along a plan of `sampler`.

    Before each step x is replaced, where known, by the known data diffused to the level
    of that step with fresh noise, as in the reference's DDIM (its DDPM does so after each
    step, one level too noisy) and in RePaint (Lugmayr et al. 2022).

    The hole then fits its surroundings only in part, because at high noise the model sees
    little of them: on a correlated Gaussian with its exact score the mean of the hole goes
    half (deterministic samplers) to two thirds (DDPM) of the way from the marginal to the
    conditional one, with one resampling 80 %, with four 90 %. Each costs a call of the
    model: half of the variance of the noise is drawn anew at the same level (RePaint goes
    down a step and up again). A model trained to inpaint needs none of this.

    Solvers that remember earlier steps remember predictions, which stay predictions of
    the same data. What the last step leaves in the known part is the model's; put
    `known.composite` around the result if it must be exact, as the reference does not.

    Args:
      sampler: any whose rows have a `level`, as all in `SAMPLERS` do.
      known: of the shape of x.
      key: of the noise in the known part, one or `[b]` as in `sample`; not the key of
        the steps. Where nothing is known the result is that of `sampler`, to the bit.
      num_resamplings: before each step; a constant of the program.
    """

    def hold(x, level, key):
        noise = normal_like(named_key(key, "known"), x)
        return _blend(known.keep, diffuse_to(level, known.x0, noise), x)

    def resample(denoise_fn, x, level, key):
        x0, eps = denoise_fn(hold(x, level, key), level)
        noise = normal_like(named_key(key, "fresh"), x)
        mixed = math.sqrt(1 - _FRESH_SHARE) * eps + math.sqrt(_FRESH_SHARE) * noise
        return diffuse_to(level, x0, mixed).astype(x.dtype)

    def init(x):
        return sampler.init(x), jnp.int32(0)

    def step(denoise_fn, x, state, row, step_key_):
        inner, index = state
        keys = step_key(key, index)

        def resample_once(i, x):
            return resample(denoise_fn, x, row.level, step_key(keys, i))

        if num_resamplings:  # an empty loop would compile the model once more
            x = jax.lax.fori_loop(1, num_resamplings + 1, resample_once, x)
        x = hold(x, row.level, step_key(keys, 0))
        x, inner, x0 = sampler.step(denoise_fn, x, inner, row, step_key_)
        return x, (inner, index + 1), x0

    return Sampler(sampler.rows, init, step)


def _blend(keep: Array, known: Array, x: Array) -> Array:
    keep = jnp.asarray(keep, x.dtype)
    return (keep * known + (1 - keep) * x).astype(x.dtype)
