"""Weights of the loss against the formulas of their papers, for every prediction."""

import numpy as np
import pytest

from ldm_jax.diffusion import PREDICTIONS, WEIGHTINGS
from ldm_jax.diffusion.process import step_posterior
from ldm_jax.diffusion.schedules import linear, rectified_flow, zero_terminal_snr
from ldm_jax.diffusion.weighting import (
    min_snr_weights,
    p2_weights,
    reference_x0_vlb_weights,
    vlb_weights,
)

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
ENDS_IN_NOISE = {
    "zero_terminal_snr": zero_terminal_snr(SCHEDULE),
    "rectified_flow": rectified_flow(1000),
}
ALL = {"linear": SCHEDULE, **ENDS_IN_NOISE}
CASES = [
    (schedule, prediction)
    for schedule in ALL
    for prediction in PREDICTIONS
    if (schedule in ENDS_IN_NOISE, prediction) != (True, "eps")
]


def output_error(prediction, schedule, x0_error):
    """|output - target|^2 at every t of a network that errs on x0, and knows x_t.

    Written out with x_t = a x0 + s eps, without `Prediction`.
    """
    generator = np.random.default_rng(0)
    x0, eps = generator.normal(size=(2, schedule.num_timesteps))
    a, s = schedule.exact_signal_scales, schedule.exact_noise_scales
    x0_hat = x0 + x0_error
    eps_hat = (a * x0 + s * eps - a * x0_hat) / s
    said, true = {
        "eps": (eps_hat, eps),
        "x0": (x0_hat, x0),
        "v": (a * eps_hat - s * x0_hat, a * eps - s * x0),
        "velocity": (eps_hat - x0_hat, eps - x0),
    }[prediction]
    return (said - true) ** 2


@pytest.mark.parametrize("schedule,prediction", CASES)
def test_min_snr_costs_min_snr_gamma_times_the_error_of_x0(schedule, prediction):
    schedule = ALL[schedule]
    weights = min_snr_weights(schedule, PREDICTIONS[prediction], gamma=5.0)
    for x0_error in (0.1, -2.0):
        loss = weights.astype(np.float64) * output_error(prediction, schedule, x0_error)
        a, s = schedule.exact_signal_scales, schedule.exact_noise_scales
        expected = np.minimum(a**2 / s**2, 5.0) * x0_error**2
        np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "zero_terminal_snr"])
def test_min_snr_equals_the_published_weight_of_each_prediction(schedule):
    """Hang et al. 2023, in alpha_bar."""
    schedule = ALL[schedule]
    alpha_bar = schedule.exact_alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    capped = np.where(snr < 5, snr, 5)
    expected = {"x0": capped, "v": capped / (snr + 1)}
    if alpha_bar[-1] > 0:
        expected["eps"] = capped / snr
    for name, weights in expected.items():
        ours = min_snr_weights(schedule, PREDICTIONS[name])
        np.testing.assert_allclose(ours, weights, rtol=1e-6)
    # The slip that is common: the weight of eps, or of x0, on v.
    middle = np.searchsorted(-snr, -1.0)
    assert min_snr_weights(schedule, PREDICTIONS["v"])[middle] == pytest.approx(
        0.5, rel=0.02
    )


@pytest.mark.parametrize("name", ["x0", "v", "velocity"])
@pytest.mark.parametrize("schedule", ENDS_IN_NOISE)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_where_no_signal_is_left(weighting, schedule, name):
    schedule = ENDS_IN_NOISE[schedule]
    with np.errstate(all="raise", under="ignore"):
        weights = WEIGHTINGS[weighting](schedule, PREDICTIONS[name])
    assert weights.dtype == np.float32 and weights.shape == (1000,)
    assert np.isfinite(weights).all() and (weights >= 0).all()
    if weighting in ("min_snr", "p2"):
        assert weights[-1] == 0


@pytest.mark.parametrize("schedule,prediction", CASES)
def test_p2_costs_its_weight_times_the_error_of_eps(schedule, prediction):
    """Choi et al. 2022: 1 / (k + SNR)^gamma on L_simple, the error of eps."""
    schedule = ALL[schedule]
    weights = p2_weights(schedule, PREDICTIONS[prediction], gamma=0.5, k=2.0)
    a, s = schedule.exact_signal_scales, schedule.exact_noise_scales
    eps_error = (a / s * 0.3) ** 2
    loss = weights * output_error(prediction, schedule, 0.3)
    expected = eps_error / (2.0 + a**2 / s**2) ** 0.5
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_p2_of_eps_is_the_printed_formula():
    alpha_bar = SCHEDULE.exact_alphas_cumprod
    ours = p2_weights(SCHEDULE, PREDICTIONS["eps"])
    np.testing.assert_allclose(ours, 1 - alpha_bar, rtol=1e-6)  # 1 / (1 + SNR)


@pytest.mark.parametrize("schedule,prediction", CASES)
def test_vlb_costs_half_the_drop_of_snr_times_the_error_of_x0(schedule, prediction):
    """L_t = (SNR(t-1) - SNR(t)) |x0 error|^2 / 2 (Kingma et al. 2021, eq. 13)."""
    schedule = ALL[schedule]
    snr = (schedule.exact_signal_scales / schedule.exact_noise_scales) ** 2
    weights = vlb_weights(schedule, PREDICTIONS[prediction])
    loss = weights * output_error(prediction, schedule, 0.3)
    expected = (snr[:-1] - snr[1:]) / 2 * 0.3**2
    np.testing.assert_allclose(loss[1:], expected, rtol=1e-5)
    assert weights[0] == weights[1]


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


def test_impossible_numbers_are_refused():
    prediction = PREDICTIONS["x0"]
    with pytest.raises(ValueError, match="gamma is 0"):
        min_snr_weights(SCHEDULE, prediction, gamma=0)
    with pytest.raises(ValueError, match="k is -1"):
        p2_weights(SCHEDULE, prediction, k=-1)
    for weighting in (min_snr_weights, p2_weights, vlb_weights):
        with pytest.raises(ValueError, match="ends in pure noise"):
            weighting(rectified_flow(10), PREDICTIONS["eps"])
