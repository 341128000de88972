"""Image-to-image: the last part of a run, from data diffused to its first level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised, diffuse_to
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.grids import from_strength

SCHEDULE = linear(beta_start=0.00085, beta_end=0.012)
KEY = jax.random.key(0)
X0 = jax.random.normal(KEY, (2, 3))
NOISE = jax.random.normal(jax.random.key(1), X0.shape)


def denoise_fn(x, level):
    """E[x0 | x] for standard normal data."""
    _, a, s = level
    return Denoised(a * x, s * x)


@pytest.mark.parametrize("num_steps", [1, 7, 10, 50, 100, 1000])
def test_every_number_of_steps_can_be_asked_for(num_steps):
    levels = make_levels(SCHEDULE, num_steps)
    for kept in range(num_steps + 1):
        left = from_strength(levels, kept / num_steps)
        np.testing.assert_array_equal(left.t, levels.t[num_steps - kept :])


def test_strengths_between_round_down():
    levels = make_levels(SCHEDULE, 10)
    counts = [len(from_strength(levels, s).t) - 1 for s in (0.05, 0.19, 0.75, 0.999)]
    assert counts == [0, 1, 7, 9]


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match="from 0 to 1"):
        from_strength(make_levels(SCHEDULE, 10), strength)


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_strengths_share_a_program_and_none_changes_nothing(name):
    sampler = SAMPLERS[name]

    @jax.jit
    def vary(plan):
        x = diffuse_to(plan.start, X0, NOISE)
        return sample(denoise_fn, sampler, plan, x, KEY)

    levels = make_levels(SCHEDULE, 8)
    results = {}
    for strength in (0.0, 0.3, 1.0):
        plan = pad(sampler.plan(from_strength(levels, strength)), 8)
        results[strength] = np.asarray(vary(plan))
    np.testing.assert_array_equal(results[0.0], X0)
    changes = [np.abs(results[s] - X0).mean() for s in (0.3, 1.0)]
    assert 0 < changes[0] < changes[1]
    assert vary._cache_size() == 1


def test_strength_one_runs_all_steps_from_the_noisiest_level():
    sampler, levels = SAMPLERS["ddim"], make_levels(SCHEDULE, 8)
    whole, part = (sampler.plan(v) for v in (levels, from_strength(levels, 1.0)))
    jax.tree.map(np.testing.assert_array_equal, part, whole)
    assert part.start.t == 999


def test_the_reference_s_start_is_the_level_before_the_first_that_is_left():
    """Its k = int(strength S) is a place in the ascending list: noised there, run below."""
    levels = make_levels(SCHEDULE, 50, grid="ddim_uniform", final="first")
    left = from_strength(levels, 0.75)
    num_steps = len(left.t) - 1
    ascending = levels.t[-2::-1]  # 1, 21, ..., 981
    assert num_steps == int(0.75 * 50)
    assert left.t[0] == ascending[num_steps - 1]
    assert levels.t[-2 - num_steps] == ascending[num_steps]


def test_previous_levels_do_not_matter_to_what_is_left():
    """A run from half way is a run along those levels alone."""
    sampler = SAMPLERS["dpmpp_2m"]
    levels = make_levels(SCHEDULE, 20)
    left = from_strength(levels, 0.5)
    x = diffuse_to(sampler.plan(left).start, X0, NOISE)
    actual = sample(denoise_fn, sampler, pad(sampler.plan(left), 64), x, KEY)
    alone = make_levels(SCHEDULE, grid=levels.t[10:-1].tolist())
    expected = sample(denoise_fn, sampler, sampler.plan(alone), x, KEY)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert jnp.isfinite(actual).all()
