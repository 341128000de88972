"""Schedules against golden tables of the reference and its printed spot values."""

import pathlib

import jax
import numpy as np
import pytest

from ldm_jax.diffusion import SCHEDULES
from ldm_jax.diffusion.schedules import Schedule, from_betas, linear

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = {
    "linear_default": ("linear", {}),
    "cosine_default": ("cosine", {}),
    "sqrt_linear_default": ("sqrt_linear", {}),
    "sqrt_default": ("sqrt", {}),
    "linear_ffhq": ("linear", {"beta_start": 0.0015, "beta_end": 0.0195}),
    "linear_churches": ("linear", {"beta_start": 0.0015, "beta_end": 0.0155}),
    "linear_inpaint": ("linear", {"beta_start": 0.0015, "beta_end": 0.0205}),
    "linear_sd": ("linear", {"beta_start": 0.00085, "beta_end": 0.012}),
    "linear_rdm": ("linear", {"beta_start": 0.0015, "beta_end": 0.015}),
}


@pytest.mark.parametrize("entry", GOLDEN)
def test_betas_equal_the_reference_in_float64(entry):
    name, options = GOLDEN[entry]
    expected = np.load(GOLDEN_DIR / "beta_schedules.npz")[f"out/{entry}"]
    schedule = SCHEDULES[name](**options)
    np.testing.assert_allclose(schedule.exact_betas, expected, rtol=1e-11)
    np.testing.assert_array_equal(schedule.betas, expected.astype(np.float32))


def test_alphas_cumprod_equal_the_reference_tensor_in_float32():
    golden = np.load(GOLDEN_DIR / "ddim_parameters_sd_schedule.npz")
    schedule = linear(beta_start=0.00085, beta_end=0.012)
    assert schedule.alphas_cumprod.dtype == np.float32
    np.testing.assert_array_equal(
        schedule.alphas_cumprod, golden["in/alphas_cumprod_f32"]
    )


def test_signal_and_noise_scales_are_exact_at_both_ends():
    schedule = linear(beta_start=0.0015, beta_end=0.0195)
    assert schedule.signal_scales[-1] == pytest.approx(0.01193, rel=1e-3)
    assert schedule.noise_scales[0] == pytest.approx(0.0015**0.5, rel=1e-7)
    total = schedule.signal_scales**2 + schedule.noise_scales**2
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_cosine_schedule_is_clipped_once():
    assert np.sum(SCHEDULES["cosine"]().exact_betas == 0.999) == 1


def test_a_schedule_passes_through_jit_as_a_constant():
    schedule = linear(10)
    result = jax.jit(lambda s, x: s.num_timesteps * x)(schedule, 2.0)
    assert result == 20


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [0.0], [[0.1]], [float("nan")]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        from_betas(np.array(betas))


@pytest.mark.parametrize("scales", [[], [0.9, 0.95], [1.0, 0.5], [0.5, 0.0, -0.1]])
def test_signal_that_does_not_fall_from_one_to_zero_is_refused(scales):
    with pytest.raises(ValueError, match="falling signal scales"):
        Schedule(np.array(scales))


def test_levels_at_whole_timesteps_are_the_tables():
    schedule = linear(beta_start=0.00085, beta_end=0.012)
    level = schedule.level_at(np.arange(1000))
    np.testing.assert_array_equal(level.signal_scale, schedule.exact_signal_scales)
    np.testing.assert_array_equal(level.noise_scale, schedule.exact_noise_scales)


@pytest.mark.parametrize("power", [1, 2])
def test_a_level_between_two_timesteps_lies_between_them(power):
    schedule = Schedule(np.linspace(0.9, 0.0, 10), power)
    for t in (0.5, 3.25, 8.75):
        level = schedule.level_at(t)
        below, above = schedule.exact_signal_scales[[int(t) + 1, int(t)]]
        assert below < level.signal_scale < above or t > 8
        assert level.signal_scale**power + level.noise_scale**power == pytest.approx(1)
    last = schedule.level_at(9)
    assert (last.signal_scale, last.noise_scale) == (0, 1)


@pytest.mark.parametrize("power", [1, 2])
def test_a_level_is_found_again_by_its_sigma(power):
    schedule = Schedule(np.linspace(0.99, 0.01, 50), power)
    t = np.array([0.0, 7.0, 49.0])
    level = schedule.level_at(t)
    again = schedule.level_of_sigma(level.noise_scale / level.signal_scale)
    for a, b in zip(again, level, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
