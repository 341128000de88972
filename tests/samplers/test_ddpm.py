"""DDPM ancestral sampling against its posterior; trajectories are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.process import step_posterior
from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers import make_levels, sample
from ldm_jax.samplers.ddim import DDIM
from ldm_jax.samplers.ddpm import DDPM

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
KEY = jax.random.key(0)


def wavy_denoise_fn(x, level):
    _, a, s = level
    return EPS.read(jnp.sin(x) * s, x, a, s)


def row(plan, index):
    return jax.tree.map(lambda table: table[index], plan.rows)


def test_one_step_has_the_posterior_mean_and_standard_deviation():
    x = jnp.full((1, 200_000), 0.7)
    index = 400  # t = 599
    plan = DDPM.plan(make_levels(SCHEDULE))
    believe = lambda x, level: Denoised(jnp.full_like(x, -0.2), x)
    x_prev, _, x0 = DDPM.step(believe, x, (), row(plan, index), KEY)
    q = step_posterior(SCHEDULE)
    t = 999 - index
    mean = q.coef_x0[t] * -0.2 + q.coef_x_t[t] * 0.7
    assert float(x_prev.mean()) == pytest.approx(mean, abs=1e-3)
    assert float(x_prev.std()) == pytest.approx(q.variance[t] ** 0.5, rel=0.01)
    np.testing.assert_array_equal(x0, jnp.full_like(x, -0.2))


def test_beta_variance_is_larger_than_the_posterior_s():
    levels = make_levels(SCHEDULE, 10)
    lower = DDPM.plan(levels, variance="posterior").rows.noise_scale
    upper = DDPM.plan(levels, variance="beta").rows.noise_scale
    assert np.all(lower[:-1] < upper[:-1])
    assert lower[-1] == upper[-1] == 0


def test_without_noise_it_equals_ddim_with_eta_one_without_noise():
    x_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    levels = make_levels(SCHEDULE, 20)
    plan = DDPM.plan(levels, temperature=0.0)
    ancestral = sample(wavy_denoise_fn, DDPM, plan, x_T, KEY)
    plan = DDIM.plan(levels, eta=1.0, temperature=0.0)
    implicit = sample(wavy_denoise_fn, DDIM, plan, x_T, KEY)
    np.testing.assert_allclose(ancestral, implicit, rtol=1e-4, atol=1e-5)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="'posterior' or 'beta'"):
        DDPM.plan(make_levels(SCHEDULE, 5), variance="learned")
