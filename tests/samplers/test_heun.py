"""Heun and Euler with churn against algorithm 2 of Karras et al. 2022, written out."""

import jax
import numpy as np
import pytest
from exact_score import LDM, SCHEDULES, levels_of, mixture_denoise_fn

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.schedules import Level
from ldm_jax.rng import step_key
from ldm_jax.samplers import SAMPLERS, make_levels, sample
from ldm_jax.samplers.ddim import DDIM
from ldm_jax.samplers.euler import EULER

KEY = jax.random.key(0)
CHURN = {"churn": 5.0, "churn_min": 0.1, "churn_max": 8.0, "temperature": 1.007}


def algorithm_2(name, x, sigmas, noises):
    """In the paper's coordinates; `euler` leaves out lines 9 to 11."""
    gamma_max = min(CHURN["churn"] / (len(sigmas) - 1), 2**0.5 - 1)
    for sigma, sigma_next, noise in zip(sigmas[:-1], sigmas[1:], noises, strict=True):
        is_raised = CHURN["churn_min"] <= sigma <= CHURN["churn_max"]
        raised = sigma * (1 + gamma_max * is_raised)
        x = x + np.sqrt(raised**2 - sigma**2) * CHURN["temperature"] * noise
        slope = (x - denoiser(x, raised)) / raised
        x_next = x + (sigma_next - raised) * slope
        if sigma_next > 0 and name == "heun":
            slope_next = (x_next - denoiser(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - raised) * (slope + slope_next) / 2
        x = x_next
    return x


def denoiser(y, sigma):
    """D(y; sigma): x0 from data plus noise."""
    x0 = mixture_denoise_fn(y, Level(None, 1.0, sigma)).x0
    return np.asarray(x0, np.float64)


@pytest.mark.parametrize("schedule", ["ldm", "rectified_flow"])
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_churn_is_that_of_algorithm_2(name, schedule):
    x_T = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    levels = levels_of(schedule, None, grid=np.linspace(5, 990, 12))
    noises = [normal_like(step_key(KEY, i), x_T) for i in range(12)]
    sigmas = levels.noise_scale / levels.signal_scale
    assert np.sum((sigmas >= 0.1) & (sigmas <= 8)) > 3
    expected = algorithm_2(name, x_T / levels.signal_scale[0], sigmas, noises)
    plan = SAMPLERS[name].plan(levels, **CHURN)
    actual = sample(mixture_denoise_fn, SAMPLERS[name], plan, x_T, KEY)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def test_euler_without_churn_is_ddim():
    levels = make_levels(LDM, 7)
    x_T = jax.random.normal(KEY, (4, 2))
    expected = sample(mixture_denoise_fn, DDIM, DDIM.plan(levels), x_T, KEY)
    actual = sample(mixture_denoise_fn, EULER, EULER.plan(levels), x_T, KEY)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_raised_levels_are_levels_of_the_schedule(schedule):
    levels = levels_of(schedule, 20, grid="trailing")
    raised = EULER.rows(levels, churn=40.0).raised
    sigma = raised.noise_scale[2:] / raised.signal_scale[2:]
    before = levels.noise_scale[2:-1] / levels.signal_scale[2:-1]
    np.testing.assert_allclose(sigma, before * 2**0.5, rtol=1e-9)
    expected = SCHEDULES[schedule].level_of_sigma(sigma)
    np.testing.assert_allclose(raised.signal_scale[2:], expected.signal_scale)
    np.testing.assert_allclose(raised.t[2:], expected.t, atol=2.5)


def test_the_first_level_is_never_exceeded():
    levels = make_levels(LDM, 20, grid="karras")
    raised = EULER.rows(levels, churn=40.0).raised
    assert raised.t.max() == levels.t[0]
    assert raised.noise_scale.max() == levels.noise_scale[0]
