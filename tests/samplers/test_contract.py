"""Every sampler in SAMPLERS draws a Gaussian whose score is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.base import sample_with_previews

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 0.7])
KEY = jax.random.key(0)


def gaussian_denoise_fn(x, level):
    """E[x0 | x_t] for data N(MEAN, STD^2) on the last axis."""
    _, a, s = level
    gain = a * STD**2 / (a**2 * STD**2 + s**2)
    x0 = MEAN + gain * (x - a * MEAN)
    return Denoised(x0, (x - a * x0) / s)


# sampler, its options, number of steps, levels
VARIANTS = [
    ("ddim", {}, 200, {}),
    ("ddim", {"eta": 1.0}, 200, {"grid": "power"}),
    ("ddim", {"eta": 0.5}, 200, {"grid": "leading"}),
    ("ddim", {}, 200, {"grid": "ddim_uniform", "final": "first"}),
    ("ddpm", {}, None, {}),
    ("ddpm", {"variance": "beta"}, 1000, {}),
    ("ddpm", {}, 300, {"grid": "power"}),
    ("euler", {}, 100, {"grid": "karras"}),
    ("euler_ancestral", {}, 200, {"grid": "karras"}),
]


def run(name, options, num_steps, levels, x_T, key=KEY):
    plan = SAMPLERS[name].plan(make_levels(SCHEDULE, num_steps, **levels), **options)
    draw = jax.jit(
        lambda plan, x, key: sample(gaussian_denoise_fn, SAMPLERS[name], plan, x, key)
    )
    return np.asarray(draw(plan, x_T, key))


def test_every_sampler_is_covered():
    assert {name for name, *_ in VARIANTS} == set(SAMPLERS)


@pytest.mark.parametrize("name,options,num_steps,levels", VARIANTS)
def test_a_gaussian_comes_back_with_its_mean_and_variance(
    name, options, num_steps, levels
):
    x_T = jax.random.normal(jax.random.key(0), (4000, 2, 3))
    x = run(name, options, num_steps, levels, x_T, jax.random.key(1)).reshape(-1, 3)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.06)


def test_ddim_quad_loses_the_mean_that_is_left_at_its_first_timestep():
    """It starts at 0.8 T from pure noise, as the reference does."""
    first = SCHEDULE.signal_scales[801]
    x_T = jax.random.normal(jax.random.key(0), (8000, 3))
    x = run("ddim", {}, 200, {"grid": "ddim_quad"}, x_T)
    lost = 1 - x[:, 1].mean() / MEAN[1]
    assert lost == pytest.approx(first, abs=0.03)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_and_dtype_of_the_noise_are_kept(name):
    sampler = SAMPLERS[name]
    plan = sampler.plan(make_levels(SCHEDULE, 3))
    for dtype in (jnp.float32, jnp.bfloat16):
        x_T = jnp.ones((2, 4, 4, 3), dtype)
        x = sample(gaussian_denoise_fn, sampler, plan, x_T, KEY)
        assert x.shape == x_T.shape and x.dtype == dtype


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_leads_to_x0(name):
    x_T = jnp.ones((2, 3))
    levels = make_levels(SCHEDULE, 1)
    x = sample(
        gaussian_denoise_fn, SAMPLERS[name], SAMPLERS[name].plan(levels), x_T, KEY
    )
    expected = gaussian_denoise_fn(x_T, SCHEDULE.level_at(999.0)).x0
    np.testing.assert_allclose(x, expected, rtol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_plans_of_one_length_share_a_program_and_padding_changes_nothing(name):
    sampler = SAMPLERS[name]
    x_T = jax.random.normal(KEY, (2, 3))
    draw = jax.jit(lambda plan, x: sample(gaussian_denoise_fn, sampler, plan, x, KEY))
    for num_steps in (1, 3, 6, 7):
        plan = sampler.plan(make_levels(SCHEDULE, num_steps))
        expected = sample(gaussian_denoise_fn, sampler, plan, x_T, KEY)
        actual = draw(pad(plan, 8), x_T)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert draw._cache_size() == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_can_be_differentiated(name):
    sampler = SAMPLERS[name]
    plan = pad(sampler.plan(make_levels(SCHEDULE, 3)), 4)
    x_T = jax.random.normal(KEY, (2, 3))
    loss = lambda x: sample(gaussian_denoise_fn, sampler, plan, x, KEY).sum()
    slope = jax.grad(loss)(x_T)[0, 0]
    step = jnp.zeros_like(x_T).at[0, 0].set(0.1)
    expected = (loss(x_T + step) - loss(x_T - step)) / 0.2
    assert float(slope) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_previews_are_the_x0_of_the_chosen_steps(name):
    sampler = SAMPLERS[name]
    plan = pad(sampler.plan(make_levels(SCHEDULE, 5)), 8)
    x_T = jax.random.normal(KEY, (2, 3))
    chosen = jnp.array([0, 4, 6])
    _, previews = sample_with_previews(
        gaussian_denoise_fn, sampler, plan, x_T, KEY, chosen
    )
    first = gaussian_denoise_fn(x_T, SCHEDULE.level_at(999.0)).x0
    np.testing.assert_allclose(previews[0], first, rtol=1e-4)
    assert np.abs(previews[1] - previews[0]).max() > 0.1
    np.testing.assert_array_equal(previews[2], 0)  # not run


def test_a_plan_that_is_too_long_is_refused():
    plan = SAMPLERS["ddim"].plan(make_levels(SCHEDULE, 9))
    with pytest.raises(ValueError, match="does not fit 8 rows"):
        pad(plan, 8)
