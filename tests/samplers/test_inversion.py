"""DDIM inversion: from data to the noise that DDIM turns back into it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.arrays import slerp
from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.inversion import DDIM_INVERSION, reverse

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 0.7])
KEY = jax.random.key(0)
X0 = MEAN + STD * jax.random.normal(KEY, (500, 3))


def gaussian_denoise_fn(x, level):
    """E[x0 | x] for data N(MEAN, STD^2)."""
    _, a, s = level
    x0 = MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)
    return Denoised(x0, (x - a * x0) / s)


def wavy_denoise_fn(x, level):
    """A network that outputs eps, of a curved flow."""
    _, a, s = level
    eps = s * jnp.tanh(x) + 0.2 * jnp.sin(3 * x)
    return Denoised((x - s * eps) / a, eps)


@jax.jit
def invert(plan, x0):
    return sample(gaussian_denoise_fn, DDIM_INVERSION, plan, x0, KEY)


@jax.jit
def draw(plan, x):
    return sample(gaussian_denoise_fn, SAMPLERS["ddim"], plan, x, KEY)


def round_trip(num_steps, **options):
    """The noise of X0, and the root mean square error of the data drawn from it."""
    levels = make_levels(SCHEDULE, num_steps, **options)
    noise = invert(pad(DDIM_INVERSION.plan(reverse(levels)), 256), X0)
    back = draw(pad(SAMPLERS["ddim"].plan(levels), 256), noise)
    return noise, float(jnp.sqrt(jnp.mean((back - X0) ** 2)))


@pytest.mark.parametrize("options", [{}, {"grid": "karras"}, {"final": "first"}])
def test_the_way_there_and_back_errs_less_with_more_steps(options):
    errors = [round_trip(n, **options)[1] for n in (10, 25, 50, 200)]
    assert np.all(np.diff(errors) < 0)
    assert errors[-1] < 0.005
    assert invert._cache_size() == 1


def test_fifty_steps_bring_a_gaussian_back():
    _, error = round_trip(50, grid="power")
    assert error < 0.005


def test_the_noise_is_that_of_the_exact_flow():
    """The probability flow of a Gaussian is affine: noise = (x0 - MEAN) / STD at the end."""
    noise, _ = round_trip(200, grid="power")
    a, s = SCHEDULE.signal_scales[-1], SCHEDULE.noise_scales[-1]
    spread = np.sqrt(a**2 * STD**2 + s**2)
    expected = a * MEAN + spread * (X0 - MEAN) / STD
    np.testing.assert_allclose(noise, expected, atol=0.15)
    np.testing.assert_allclose(noise.std(0), spread, rtol=0.1)


def test_it_errs_less_than_predicting_from_x_itself():
    levels = make_levels(SCHEDULE, 50)
    upwards, ddim = DDIM_INVERSION.plan(reverse(levels)), SAMPLERS["ddim"].plan(levels)
    x0 = jax.random.normal(KEY, (200, 3))

    def naive_step(x, row):
        eps = wavy_denoise_fn(x, row.after).eps
        return row.coef_x * x + row.coef_eps * eps, None

    @jax.jit
    def error(noise):
        back = sample(wavy_denoise_fn, SAMPLERS["ddim"], ddim, noise, KEY)
        return jnp.abs(back - x0).mean()

    naive, _ = jax.lax.scan(naive_step, x0, upwards.rows)
    ours = sample(wavy_denoise_fn, DDIM_INVERSION, upwards, x0, KEY)
    assert error(ours) < 0.5 * error(naive)


def test_levels_that_fall_are_refused():
    with pytest.raises(ValueError, match="give reverse"):
        DDIM_INVERSION.plan(make_levels(SCHEDULE, 10))


def test_between_two_noises_data_changes_gradually():
    plan = pad(SAMPLERS["ddim"].plan(make_levels(SCHEDULE, 50)), 256)
    noise, _ = round_trip(50, grid="power")
    ends = [jnp.broadcast_to(noise[k], noise.shape) for k in (0, 1)]
    x = np.asarray(draw(plan, slerp(*ends, jnp.linspace(0, 1, 500))))
    np.testing.assert_allclose(x[[0, -1]], X0[:2], atol=0.2)
    assert np.abs(np.diff(x, axis=0)).max() < 0.05
