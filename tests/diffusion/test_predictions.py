"""eps, x0 and v say the same thing; their weights too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import PREDICTIONS, WEIGHTINGS
from ldm_jax.diffusion.denoise import Denoised, clip_x0
from ldm_jax.diffusion.process import diffuse, scales_at, step_posterior
from ldm_jax.diffusion.schedules import linear
from ldm_jax.diffusion.weighting import reference_x0_vlb_weights, vlb_weights

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)


def example():
    keys = jax.random.split(jax.random.key(0))
    x0, eps = (jax.random.normal(key, (5, 4, 4, 3)) for key in keys)
    return x0, eps, jnp.array([0, 10, 300, 700, 999])


@pytest.mark.parametrize("name", PREDICTIONS)
def test_reading_the_target_gives_back_x0_and_eps(name):
    x0, eps, t = example()
    a, s = scales_at(SCHEDULE, t, 4)
    prediction = PREDICTIONS[name]
    x_t = diffuse(SCHEDULE, x0, eps, t)
    read = prediction.read(prediction.target(x0, eps, a, s), x_t, a, s)
    np.testing.assert_allclose(read.x0, x0, atol=2e-4)  # division by a = 0.012
    np.testing.assert_allclose(read.eps, eps, atol=2e-4)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_any_output_is_read_as_a_pair_that_explains_x_t(name):
    x_t, output, t = example()
    a, s = scales_at(SCHEDULE, t, 4)
    x0, eps = PREDICTIONS[name].read(output, x_t, a, s)
    np.testing.assert_allclose(a * x0 + s * eps, x_t, atol=1e-5)


@pytest.mark.parametrize("weighting", ["min_snr", "vlb"])
def test_weights_of_the_three_predictions_weigh_the_same_error_alike(weighting):
    """A fixed error of x0 costs the same whichever output it is measured on."""
    weights = {
        name: WEIGHTINGS[weighting](SCHEDULE, prediction).astype(np.float64)
        for name, prediction in PREDICTIONS.items()
    }
    snr = SCHEDULE.exact_snr
    np.testing.assert_allclose(weights["eps"][1:] * snr[1:], weights["x0"][1:], 1e-6)
    v_loss = weights["v"][1:] * (snr[1:] + 1)
    np.testing.assert_allclose(v_loss, weights["x0"][1:], rtol=1e-6)


def test_vlb_weights_of_x0_are_half_the_drop_of_snr():
    """L_t = (SNR(t-1) - SNR(t)) |x0 error|^2 / 2 (Kingma et al. 2021, eq. 13)."""
    snr = SCHEDULE.exact_snr
    expected = (snr[:-1] - snr[1:]) / 2
    weights = vlb_weights(SCHEDULE, PREDICTIONS["x0"])
    np.testing.assert_allclose(weights[1:], expected, rtol=1e-5)


def test_vlb_weights_of_eps_are_those_of_the_reference():
    beta, alpha_bar = SCHEDULE.exact_betas, SCHEDULE.exact_alphas_cumprod
    variance = step_posterior(SCHEDULE).variance
    expected = beta[1:] ** 2 / (2 * variance[1:] * (1 - beta[1:]) * (1 - alpha_bar[1:]))
    weights = vlb_weights(SCHEDULE, PREDICTIONS["eps"])
    np.testing.assert_allclose(weights[1:], expected, rtol=1e-6)
    assert weights[0] == weights[1]


def test_reference_weights_of_x0_stay_finite_and_fixed_up():
    weights = reference_x0_vlb_weights(SCHEDULE)
    assert weights.shape == (1000,) and weights[0] == weights[1]
    alpha_bar = SCHEDULE.exact_alphas_cumprod[500]
    assert weights[500] == pytest.approx(0.5 * alpha_bar**0.5 / (2 - alpha_bar))


def test_min_snr_is_capped_at_gamma():
    weights = WEIGHTINGS["min_snr"](SCHEDULE, PREDICTIONS["x0"], gamma=3.0)
    assert weights.max() == 3
    assert weights[-1] == pytest.approx(SCHEDULE.exact_snr[-1])


def test_clipping_x0_changes_eps_so_that_both_still_explain_x():
    x, _, _ = example()
    level = SCHEDULE.level_at(500)
    x0, eps = clip_x0(lambda x, level: Denoised(3 * x, x))(x, level)
    assert np.abs(x0).max() == 1
    explained = level.signal_scale * x0 + level.noise_scale * eps
    np.testing.assert_allclose(explained, x, atol=1e-5)
