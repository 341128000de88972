"""An example is the work of its own key: not of its place, nor of the batch it is in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.schedules import linear
from ldm_jax.rng import example_keys, named_key, named_keys
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.masked import Known, masked

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
SEED = jax.random.key(7)
SLOTS, SHAPE = 16, (8, 8, 3)
KERNEL = 0.3 * jax.random.normal(jax.random.key(1), (3, 3, 3, 3))
PICTURES = jax.random.normal(jax.random.key(2), (SLOTS, *SHAPE))
KEEP = (jnp.arange(8) < 4).astype(jnp.float32)[:, None, None]  # the upper half
STOCHASTIC = {
    "ddpm": {},
    "ddim": {"eta": 1.0},
    "euler": {"churn": 2.0},
    "euler_ancestral": {},
    "heun": {"churn": 2.0},
    "dpmpp_sde_2m": {},
}
DETERMINISTIC = {"plms", "dpmpp_2s", "dpmpp_2m", "unipc"}
CASES = [(name, False) for name in (*STOCHASTIC, "plms", "unipc")]
CASES += [(name, True) for name in ("ddpm", "heun", "dpmpp_sde_2m", "plms")]


def denoise_fn(x, level):
    """A convolution: what networks do to a batch."""
    t, a, s = level
    dims = ("NHWC", "HWIO", "NHWC")
    mixed = jax.lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", dimension_numbers=dims
    )
    return EPS.read(s * jnp.tanh(x + mixed) + 1e-4 * t, x, a, s)


def drawer(name, is_masked):
    """A compiled `(start, index, key) -> x [16 ...]`: x_T by `start`, the rest by `index`."""
    sampler = SAMPLERS[name]
    levels = make_levels(SCHEDULE, 5)
    plan = pad(sampler.plan(levels, **STOCHASTIC.get(name, {})), 8)

    @jax.jit
    def draw(start, index, key):
        keys = named_keys(example_keys(key, index), "known", "steps")
        start_keys = named_key(example_keys(key, start), "noise")
        x_T = normal_like(start_keys, jnp.zeros((SLOTS, *SHAPE)))
        known = Known(PICTURES[index], KEEP)
        chosen = masked(sampler, known, keys["known"]) if is_masked else sampler
        return sample(denoise_fn, chosen, plan, x_T, keys["steps"])

    return draw


def padded(index):
    """A batch of any size in the slots of the program; the rest repeats the last."""
    return jnp.asarray(list(index) + [index[-1]] * (SLOTS - len(index)))


def test_every_sampler_that_draws_noise_is_covered():
    assert set(STOCHASTIC) | DETERMINISTIC == set(SAMPLERS)


@pytest.mark.parametrize("name,is_masked", CASES)
def test_an_example_is_the_same_to_the_bit_in_batches_of_1_4_and_16(name, is_masked):
    draw, everyone = drawer(name, is_masked), jnp.arange(SLOTS)
    whole = np.asarray(draw(everyone, everyone, SEED))
    for batch in ([5], [4, 5, 6, 7], [15, 2, 5, 0]):
        rows = padded(batch)
        drawn = np.asarray(draw(rows, rows, SEED))[: len(batch)]
        np.testing.assert_array_equal(drawn, whole[np.array(batch)])
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    other = draw(everyone, everyone, jax.random.key(8))
    assert np.abs(other - whole).max() > 0.1
    # From one x_T, examples part if and only if their steps draw noise.
    same_start = np.asarray(draw(0 * everyone, everyone, SEED))
    is_stochastic = name in STOCHASTIC or is_masked
    assert (np.abs(same_start - same_start[0]).max() > 0.05) == is_stochastic
    assert draw._cache_size() == 1
