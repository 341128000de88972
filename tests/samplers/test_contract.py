"""Every sampler in SAMPLERS draws a Gaussian whose score is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.process import scales_at
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import SAMPLERS, sample

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 0.7])


def gaussian_denoise_fn(x, t):
    """E[x0 | x_t] for data N(MEAN, STD^2) on the last axis."""
    a, s = scales_at(SCHEDULE, t, x.ndim)
    gain = a * STD**2 / (a**2 * STD**2 + s**2)
    x0 = MEAN + gain * (x - a * MEAN)
    return Denoised(x0, (x - a * x0) / s)


VARIANTS = [
    ("ddim", 200, {}),
    ("ddim", 200, {"eta": 1.0, "grid": "power"}),
    ("ddim", 200, {"eta": 0.5, "grid": "leading"}),
    ("ddim", 200, {"grid": "ddim_uniform", "final_alpha_bar": "first"}),
    ("ddpm", None, {}),
    ("ddpm", 1000, {"variance": "beta"}),
    ("ddpm", 300, {"grid": "power"}),
]


def test_every_sampler_is_covered():
    assert {name for name, _, _ in VARIANTS} == set(SAMPLERS)


@pytest.mark.parametrize("name,num_steps,options", VARIANTS)
def test_a_gaussian_comes_back_with_its_mean_and_variance(name, num_steps, options):
    sampler = SAMPLERS[name](SCHEDULE, num_steps, **options)
    x_T = jax.random.normal(jax.random.key(0), (4000, 2, 3))
    run = jax.jit(lambda x, key: sample(gaussian_denoise_fn, sampler, x, key))
    x = np.asarray(run(x_T, jax.random.key(1))).reshape(-1, 3)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.06)


def test_ddim_quad_loses_the_mean_that_is_left_at_its_first_timestep():
    """It starts at 0.8 T from pure noise, as the reference does."""
    first = SCHEDULE.signal_scales[801]
    sampler = SAMPLERS["ddim"](SCHEDULE, 200, grid="ddim_quad")
    x_T = jax.random.normal(jax.random.key(0), (8000, 3))
    run = jax.jit(lambda x, key: sample(gaussian_denoise_fn, sampler, x, key))
    x = np.asarray(run(x_T, jax.random.key(1)))
    lost = 1 - x[:, 1].mean() / MEAN[1]
    assert lost == pytest.approx(first, abs=0.03)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_and_dtype_of_the_noise_are_kept(name):
    sampler = SAMPLERS[name](SCHEDULE, 3)
    assert sampler.num_steps == 3
    for dtype in (jnp.float32, jnp.bfloat16):
        x_T = jnp.ones((2, 4, 4, 3), dtype)
        x = sample(gaussian_denoise_fn, sampler, x_T, jax.random.key(0))
        assert x.shape == x_T.shape and x.dtype == dtype


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_possible(name):
    x_T = jnp.ones((2, 3))
    x = sample(gaussian_denoise_fn, SAMPLERS[name](SCHEDULE, 1), x_T, jax.random.key(0))
    expected = gaussian_denoise_fn(x_T, jnp.full(2, 999.0)).x0
    np.testing.assert_allclose(x, expected, rtol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_model_is_traced_once_whatever_the_number_of_steps(name):
    calls = []

    def counting(x, t):
        calls.append(t)
        return gaussian_denoise_fn(x, t)

    sampler = SAMPLERS[name](SCHEDULE, 40)
    jax.make_jaxpr(lambda x, key: sample(counting, sampler, x, key))(
        jnp.ones((2, 3)), jax.random.key(0)
    )
    assert len(calls) == 1
    assert calls[0].shape == (2,) and calls[0].dtype == jnp.float32
