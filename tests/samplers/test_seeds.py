"""An example is the work of its own key: not of its place, nor of the batch it is in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.schedules import linear
from ldm_jax.rng import example_keys, named_keys
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.masked import Known, masked

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
SEED = jax.random.key(7)
SLOTS, SHAPE = 16, (8, 8, 3)
KERNEL = 0.3 * jax.random.normal(jax.random.key(1), (3, 3, 3, 3))
PICTURES = jax.random.normal(jax.random.key(2), (SLOTS, *SHAPE))
KEEP = (jnp.arange(8) < 4).astype(jnp.float32)[:, None, None]  # the upper half
OPTIONS = {"ddim": {"eta": 1.0}}


def denoise_fn(x, level):
    """A convolution: what networks do to a batch."""
    t, a, s = level
    dims = ("NHWC", "HWIO", "NHWC")
    mixed = jax.lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", dimension_numbers=dims
    )
    return EPS.read(s * jnp.tanh(x + mixed) + 1e-4 * t, x, a, s)


def drawer(name, is_masked):
    """A compiled `(index [16], key) -> x [16 ...]`: example i is that of its index."""
    sampler = SAMPLERS[name]
    levels = make_levels(SCHEDULE, 5)
    plan = pad(sampler.plan(levels, **OPTIONS.get(name, {})), 8)

    @jax.jit
    def draw(index, key):
        keys = named_keys(example_keys(key, index), "noise", "known", "steps")
        x_T = normal_like(keys["noise"], jnp.zeros((SLOTS, *SHAPE)))
        known = Known(PICTURES[index], KEEP)
        chosen = masked(sampler, known, keys["known"]) if is_masked else sampler
        return sample(denoise_fn, chosen, plan, x_T, keys["steps"])

    return draw


def padded(index):
    """A batch of any size in the slots of the program; the rest repeats the last."""
    return jnp.asarray(list(index) + [index[-1]] * (SLOTS - len(index)))


@pytest.mark.parametrize("is_masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_example_is_the_same_to_the_bit_in_batches_of_1_4_and_16(name, is_masked):
    draw = drawer(name, is_masked)
    whole = np.asarray(draw(padded(range(16)), SEED))
    for batch in ([5], [4, 5, 6, 7], [15, 2, 5, 0]):
        drawn = np.asarray(draw(padded(batch), SEED))[: len(batch)]
        np.testing.assert_array_equal(drawn, whole[np.array(batch)])
    assert draw._cache_size() == 1
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    assert np.abs(draw(padded(range(16)), jax.random.key(8)) - whole).max() > 0.1


STOCHASTIC = ["ddpm", "ddim", "euler_ancestral", "dpmpp_sde_2m"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_of_the_steps_is_each_example_s_own(name):
    """From one x_T, examples part if and only if the sampler draws noise."""
    sampler = SAMPLERS[name]
    plan = sampler.plan(make_levels(SCHEDULE, 5), **OPTIONS.get(name, {}))
    x_T = jnp.broadcast_to(PICTURES[0], (3, *SHAPE))
    keys = example_keys(SEED, jnp.array([0, 1, 0]))
    x = np.asarray(sample(denoise_fn, sampler, plan, x_T, keys))
    np.testing.assert_array_equal(x[0], x[2])
    assert (np.abs(x[0] - x[1]).max() > 0.05) == (name in STOCHASTIC)
