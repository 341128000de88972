"""Schedules against golden tables of the reference and its printed spot values."""

import pathlib

import jax
import numpy as np
import pytest

from ldm_jax.diffusion import SCHEDULES
from ldm_jax.diffusion.process import step_posterior
from ldm_jax.diffusion.schedules import (
    Schedule,
    from_betas,
    linear,
    rectified_flow,
    zero_terminal_snr,
)

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


def test_between_two_timesteps_of_rectified_flow_sigma_finds_t_exactly():
    schedule, t = rectified_flow(20), np.array([0.25, 7.5, 18.9])
    level = schedule.level_at(t)
    again = schedule.level_of_sigma(level.noise_scale / level.signal_scale)
    np.testing.assert_allclose(again.t, t, rtol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_is_a_line_from_data_to_noise_shifted_as_published(shift):
    schedule = rectified_flow(50, shift)
    tau = np.arange(1, 51) / 50
    shifted = shift * tau / (1 + (shift - 1) * tau)  # Esser et al. 2024, eq. 23
    np.testing.assert_allclose(schedule.exact_noise_scales, shifted, rtol=1e-12)
    np.testing.assert_allclose(schedule.exact_signal_scales, 1 - shifted, atol=1e-15)
    assert schedule.exact_snr[-1] == 0


NAMES = [name for name in SCHEDULES if name != "rectified_flow"]


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_equals_the_papers_algorithm_and_diffusers(name):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    schedule = SCHEDULES[name]()
    rescaled = zero_terminal_snr(schedule)
    theirs = diffusers.rescale_zero_terminal_snr(torch.tensor(schedule.exact_betas))
    np.testing.assert_allclose(rescaled.exact_betas, theirs.numpy(), rtol=1e-9)

    # Algorithm 1 of Lin et al. 2024, written out.
    root = np.sqrt(np.cumprod(1 - schedule.exact_betas))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(rescaled.exact_signal_scales, expected, atol=1e-12)
    assert rescaled.exact_snr[-1] == 0 and rescaled.signal_scales[-1] == 0
    assert rescaled.exact_alphas_cumprod[0] == schedule.exact_alphas_cumprod[0]


def test_zero_terminal_snr_keeps_the_shape_of_the_signal():
    """Differences of sqrt(alpha_bar) all grow by one factor; twice is once."""
    schedule = linear(beta_start=0.00085, beta_end=0.012)
    rescaled = zero_terminal_snr(schedule)
    ratio = np.diff(rescaled.exact_signal_scales) / np.diff(
        schedule.exact_signal_scales
    )
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    again = zero_terminal_snr(rescaled)
    np.testing.assert_allclose(
        again.exact_signal_scales, rescaled.exact_signal_scales, rtol=1e-15
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_without_signal_at_the_end_has_finite_tables(name):
    schedule = zero_terminal_snr(SCHEDULES[name](100))
    with np.errstate(all="raise"):
        tables = [schedule.exact_snr, schedule.signal_scales, schedule.noise_scales]
        tables += [*step_posterior(schedule)]
        if schedule.power == 2:
            tables.append(schedule.exact_betas)
            assert schedule.exact_betas[-1] == 1
    assert all(np.isfinite(table).all() for table in tables)
    last = step_posterior(schedule)
    assert last.coef_x_t[-1] == 0  # pure noise says nothing of x_{T-2}
    assert last.coef_x0[-1] == pytest.approx(schedule.exact_signal_scales[-2])


@pytest.mark.parametrize("name", ["linear", "rectified_flow"])
def test_levels_before_pure_noise_are_found_both_ways(name):
    schedule = zero_terminal_snr(SCHEDULES[name](100))
    t = np.array([98.0, 98.5, 98.999, 99.0])
    level = schedule.level_at(t)
    assert np.all(np.diff(level.signal_scale) < 0) and level.signal_scale[-1] == 0
    assert level.signal_scale[1] == pytest.approx(schedule.exact_signal_scales[98] / 2)
    with np.errstate(divide="ignore"):
        sigma = level.noise_scale / level.signal_scale
    again = schedule.level_of_sigma(sigma)
    np.testing.assert_allclose(again.t, t, rtol=1e-9)
    np.testing.assert_allclose(again.signal_scale, level.signal_scale, atol=1e-12)
    np.testing.assert_allclose(again.noise_scale, level.noise_scale, rtol=1e-12)


def test_schedules_that_cannot_be_rescaled_or_shifted_are_refused():
    with pytest.raises(ValueError, match="at least two timesteps"):
        zero_terminal_snr(linear(1))
    with pytest.raises(ValueError, match="give a positive number"):
        rectified_flow(shift=0)
