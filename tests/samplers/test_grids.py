"""Every grid, every number of steps."""

import pathlib

import numpy as np
import pytest

from ldm_jax.diffusion.schedules import linear
from ldm_jax.samplers.grids import GRIDS, TIME_GRIDS, make_levels

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/ddim_parameters_sd_schedule.npz"
SCHEDULE = linear(beta_start=0.00085, beta_end=0.012)
EXACT = [name for name in GRIDS if not name.startswith("ddim")]


@pytest.mark.parametrize("name", EXACT)
def test_any_number_of_steps_is_given_exactly(name):
    for num_timesteps in (1, 7, 1000):
        schedule = linear(num_timesteps)
        for num_steps in {1, 2, 3, num_timesteps // 2 or 1, num_timesteps}:
            if num_steps > num_timesteps:
                continue
            t = make_levels(schedule, num_steps, grid=name).t[:-1]
            assert len(t) == num_steps
            assert t.min() >= 0 and t.max() <= num_timesteps - 1
            assert np.all(np.diff(t) < 0)


@pytest.mark.parametrize("name", ["power", "trailing", "leading"])
def test_grids_of_whole_timesteps_never_repeat_one(name):
    for num_steps in range(1, 1001):
        t = TIME_GRIDS[name](1000, num_steps)
        assert len(t) == num_steps and t.dtype.kind == "i"
        assert t[0] >= 0 and t[-1] <= 999 and np.all(np.diff(t) > 0)


STARTS_AT_THE_TOP = [n for n in EXACT if n != "leading"]


@pytest.mark.parametrize("name", STARTS_AT_THE_TOP)
def test_sampling_starts_at_the_noisiest_level(name):
    for num_steps in (1, 2, 10, 999, 1000):
        level = make_levels(SCHEDULE, num_steps, grid=name)
        assert level.t[0] == pytest.approx(999)
        assert level.signal_scale[0] == pytest.approx(SCHEDULE.exact_signal_scales[-1])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("final", ["clean", "first"])
def test_noise_falls_to_the_chosen_end(name, final):
    levels = make_levels(SCHEDULE, 20, grid=name, final=final)
    assert np.all(np.diff(levels.noise_scale) <= 0)
    end = {"clean": 0, "first": SCHEDULE.exact_noise_scales[0]}[final]
    assert levels.noise_scale[-1] == pytest.approx(end)
    variance = levels.signal_scale**2 + levels.noise_scale**2
    np.testing.assert_allclose(variance, 1)


@pytest.mark.parametrize("name", ["karras", "log_snr"])
def test_grids_of_sigma_do_not_stop_twice_at_the_first_level(name):
    levels = make_levels(SCHEDULE, 20, grid=name, final="first")
    sigma = levels.noise_scale / levels.signal_scale
    assert len(sigma) == 21
    spacing = np.diff({"karras": sigma ** (1 / 7), "log_snr": np.log(sigma)}[name])
    np.testing.assert_allclose(spacing, spacing[0])


@pytest.mark.parametrize("num_steps", [5, 20, 50, 200, 500])
def test_ddim_uniform_is_the_list_of_the_reference(num_steps):
    t = make_levels(SCHEDULE, num_steps, grid="ddim_uniform").t[-2::-1]
    np.testing.assert_array_equal(t, np.load(GOLDEN)[f"out/S{num_steps}_t"])


def test_ddim_uniform_gives_more_steps_than_asked_where_the_reference_does():
    counts = [len(TIME_GRIDS["ddim_uniform"](1000, n)) for n in (27, 150, 300, 400)]
    assert counts == [28, 167, 334, 500]


def test_ddim_uniform_ends_at_the_last_level_where_the_reference_overflows():
    ddim_uniform = TIME_GRIDS["ddim_uniform"]
    assert ddim_uniform(1000, 3).tolist() == [1, 334, 667, 999]
    assert ddim_uniform(1000, 1000).tolist() == list(range(1, 1000))


def test_ddim_quad_is_the_list_of_the_reference_with_its_duplicate():
    t = TIME_GRIDS["ddim_quad"](1000, 50)
    np.testing.assert_array_equal(t, np.load(GOLDEN)["out/quad50_t"])
    assert len(np.unique(t)) == 49


def test_karras_levels_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        use_karras_sigmas=True,
    )
    scheduler.set_timesteps(12)
    levels = make_levels(SCHEDULE, 12, grid="karras")
    sigma = levels.noise_scale / levels.signal_scale
    np.testing.assert_allclose(sigma, scheduler.sigmas, rtol=1e-4)  # their float32
    np.testing.assert_allclose(levels.t[:-1], scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_align_your_steps_is_the_published_list_at_ten_steps():
    t = make_levels(SCHEDULE, 10, grid="align_your_steps").t[:-1]
    expected = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    np.testing.assert_allclose(t, expected, atol=1e-6)


def test_a_list_of_one_s_own_is_followed():
    levels = make_levels(SCHEDULE, grid=(10, 500, 999.0))
    assert levels.t.tolist() == [999, 500, 10, 0]
    with pytest.raises(ValueError, match="leave num_steps out"):
        make_levels(SCHEDULE, 5, grid=(10, 500, 999.0))
    with pytest.raises(ValueError, match="from 0 to 999"):
        make_levels(SCHEDULE, grid=(10, 1000))


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_an_impossible_number_of_steps_is_refused(num_steps):
    with pytest.raises(ValueError, match="ask for 1 to 1000"):
        make_levels(SCHEDULE, num_steps, grid="power")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose one of trailing, leading"):
        make_levels(SCHEDULE, 10, grid="karas")
    with pytest.raises(ValueError, match="'clean' or 'first'"):
        make_levels(SCHEDULE, 10, final="zero")
