"""Schedules against golden tables of the reference and its printed spot values."""

import pathlib

import jax
import numpy as np
import pytest

from ldm_jax.diffusion import SCHEDULES
from ldm_jax.diffusion.schedules import Schedule, linear

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
        Schedule(np.array(betas))
