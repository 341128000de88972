"""The forward process and its posterior."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.process import (
    diffuse,
    posterior,
    step_posterior,
)
from ldm_jax.diffusion.schedules import linear

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)


def test_diffused_data_have_the_stated_mean_and_variance_at_each_t():
    t = jnp.array([0, 500, 999])
    x0 = jnp.full((3, 200_000), 2.0)
    eps = jax.random.normal(jax.random.key(0), x0.shape)
    x_t = diffuse(SCHEDULE, x0, eps, t)
    alpha_bar = SCHEDULE.alphas_cumprod[np.asarray(t)]
    np.testing.assert_allclose(x_t.mean(1), 2 * np.sqrt(alpha_bar), atol=0.01)
    np.testing.assert_allclose(x_t.var(1), 1 - alpha_bar, rtol=0.02)


def test_each_example_is_diffused_to_its_own_t():
    x0, eps = jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3))
    x_t = diffuse(SCHEDULE, x0, eps, jnp.array([0, 999]))
    expected = np.sqrt(SCHEDULE.alphas_cumprod[[0, 999]])
    np.testing.assert_allclose(x_t[:, 1, 2, 0], expected, rtol=1e-6)


def test_posterior_equals_the_textbook_formulas():
    beta, alpha_bar = SCHEDULE.exact_betas, SCHEDULE.exact_alphas_cumprod
    previous = np.append(1.0, alpha_bar[:-1])
    q = step_posterior(SCHEDULE)
    np.testing.assert_allclose(q.beta, beta, rtol=1e-9)
    np.testing.assert_allclose(
        q.variance, beta * (1 - previous) / (1 - alpha_bar), rtol=1e-9
    )
    np.testing.assert_allclose(
        q.coef_x0, beta * np.sqrt(previous) / (1 - alpha_bar), rtol=1e-9
    )
    np.testing.assert_allclose(
        q.coef_x_t, (1 - previous) * np.sqrt(1 - beta) / (1 - alpha_bar), rtol=1e-9
    )


def test_posterior_over_a_stride_keeps_the_marginal():
    """Drawing x_s from q(x_s | x_t, x0) with x_t ~ q(x_t | x0) must give q(x_s | x0)."""
    level, previous = SCHEDULE.level_at(700), SCHEDULE.level_at(300)
    q = posterior(level, previous)
    mean = q.coef_x0 + q.coef_x_t * level.signal_scale
    variance = q.coef_x_t**2 * level.noise_scale**2 + q.variance
    expected = previous.signal_scale, previous.noise_scale**2
    np.testing.assert_allclose([mean, variance], expected)
