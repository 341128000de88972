"""DDIM against the reference's parameters; trajectories are in tests/parity."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import make_levels, sample
from ldm_jax.samplers.base import pairs
from ldm_jax.samplers.ddim import DDIM

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "golden"
SCHEDULE = linear(beta_start=0.00085, beta_end=0.012)
REFERENCE = {"grid": "ddim_uniform", "final": "first"}
KEY = jax.random.key(0)


def wavy_denoise_fn(x, level):
    t, a, s = level
    return EPS.read(jnp.tanh(0.7 * x + 0.001 * t), x, a, s)


def assert_within(actual, expected, tolerance=1e-5):
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert error < tolerance, error


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [5, 20, 50, 200, 500])
def test_parameters_are_those_of_the_reference(num_steps, eta):
    golden = np.load(GOLDEN_DIR / "ddim_parameters_sd_schedule.npz")
    level, after = pairs(make_levels(SCHEDULE, num_steps, **REFERENCE))
    sigma = eta * np.sqrt(posterior(level, after).variance)[::-1]
    names = {"t": level.t, "alpha": level.signal_scale**2}
    names |= {"alpha_prev": after.signal_scale**2}
    for name, actual in names.items():
        assert_within(actual[::-1], golden[f"out/S{num_steps}_{name}"])
    expected = golden[f"out/S{num_steps}_eta{eta}_sigma"]
    np.testing.assert_allclose(sigma, expected, rtol=1e-4, atol=1e-6)


def test_the_last_step_leads_to_x0():
    def denoise_fn(x, level):
        return Denoised(jnp.full_like(x, 0.25), x)

    plan = DDIM.plan(make_levels(SCHEDULE, 7), eta=1.0)
    actual = sample(denoise_fn, DDIM, plan, jnp.ones((2, 3)), KEY)
    np.testing.assert_allclose(actual, 0.25, rtol=1e-6)


def test_eta_zero_ignores_the_key_and_temperature_scales_the_noise():
    x_T = jax.random.normal(KEY, (2, 3, 4, 4))

    def run(seed, **options):
        plan = DDIM.plan(make_levels(SCHEDULE, 5), **options)
        key = jax.random.key(seed)
        return np.asarray(sample(wavy_denoise_fn, DDIM, plan, x_T, key))

    np.testing.assert_array_equal(run(0), run(1))
    assert np.abs(run(0, eta=1.0) - run(1, eta=1.0)).max() > 0.1
    np.testing.assert_array_equal(
        run(0, eta=1.0, temperature=0.0), run(1, eta=1.0, temperature=0.0)
    )


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match="from 0 to 1"):
        DDIM.plan(make_levels(SCHEDULE, 5), eta=eta)
