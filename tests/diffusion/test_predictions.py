"""eps, x0, v and the velocity say the same thing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import PREDICTIONS
from ldm_jax.diffusion.denoise import Denoised, clip_x0
from ldm_jax.diffusion.predictions import check_readable
from ldm_jax.diffusion.process import diffuse, scales_at
from ldm_jax.diffusion.schedules import linear, rectified_flow, zero_terminal_snr

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


# (a, s): variance preserved, rectified flow, neither; pure noise and clean data.
SCALES = [(0.6, 0.8), (0.3, 0.7), (1.5, 0.2), (0.0, 1.0), (1.0, 0.0)]
SAYS_NOTHING = [("eps", (0.0, 1.0)), ("x0", (1.0, 0.0))]
READABLE = [
    case for case in itertools.product(PREDICTIONS, SCALES) if case not in SAYS_NOTHING
]


@pytest.mark.parametrize("name,scales", READABLE)
def test_reading_inverts_the_target_at_any_two_scales(name, scales):
    a, s = scales
    x0, eps, _ = example()
    prediction = PREDICTIONS[name]
    read = prediction.read(prediction.target(x0, eps, a, s), a * x0 + s * eps, a, s)
    np.testing.assert_allclose(read.x0, x0, atol=2e-6)
    np.testing.assert_allclose(read.eps, eps, atol=2e-6)


@pytest.mark.parametrize("ours", PREDICTIONS)
@pytest.mark.parametrize("theirs", PREDICTIONS)
def test_any_prediction_converts_to_any_other(ours, theirs):
    a, s = 0.6, 0.5
    x0, eps, _ = example()
    target = {
        "eps": eps,
        "x0": x0,
        "v": a * eps - s * x0,
        "velocity": eps - x0,
    }
    x_t = a * x0 + s * eps
    read = PREDICTIONS[ours].read(target[ours], x_t, a, s)
    converted = PREDICTIONS[theirs].target(*read, a, s)
    np.testing.assert_allclose(converted, target[theirs], atol=3e-6)


def test_the_velocity_is_the_slope_of_the_line_from_data_to_noise():
    x0, eps, _ = example()
    schedule = rectified_flow(1000)
    t = jnp.array([0, 10, 300, 700, 998])
    slope = 1000 * (diffuse(schedule, x0, eps, t + 1) - diffuse(schedule, x0, eps, t))
    a, s = scales_at(schedule, t, 4)
    target = PREDICTIONS["velocity"].target(x0, eps, a, s)
    np.testing.assert_allclose(slope, target, atol=2e-3)


@pytest.mark.parametrize("schedule", [rectified_flow(9), zero_terminal_snr(linear(9))])
def test_only_eps_is_refused_where_the_schedule_ends_in_pure_noise(schedule):
    for name, prediction in PREDICTIONS.items():
        check_readable(prediction, linear(9))
        if name != "eps":
            check_readable(prediction, schedule)
    with pytest.raises(ValueError, match="prediction to v, x0 or velocity"):
        check_readable(PREDICTIONS["eps"], schedule)


def test_clipping_x0_changes_eps_so_that_both_still_explain_x():
    x, _, _ = example()
    level = SCHEDULE.level_at(500)
    x0, eps = clip_x0(lambda x, level: Denoised(3 * x, x))(x, level)
    assert np.abs(x0).max() == 1
    explained = level.signal_scale * x0 + level.noise_scale * eps
    np.testing.assert_allclose(explained, x, atol=1e-5)
