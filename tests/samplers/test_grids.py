"""Every grid, every number of steps."""

import pathlib

import numpy as np
import pytest

from ldm_jax.samplers.grids import GRIDS, make_grid

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/ddim_parameters_sd_schedule.npz"


@pytest.mark.parametrize("name", ["power", "trailing", "leading"])
@pytest.mark.parametrize("num_timesteps", [1, 7, 1000])
def test_any_number_of_steps_is_given_exactly(name, num_timesteps):
    for num_steps in range(1, num_timesteps + 1):
        grid = make_grid(name, num_timesteps, num_steps)
        assert len(grid) == num_steps
        assert grid[0] >= 0 and grid[-1] < num_timesteps
        assert np.all(np.diff(grid) > 0)


@pytest.mark.parametrize("name", ["power", "trailing"])
def test_sampling_starts_at_the_noisiest_level(name):
    assert all(make_grid(name, 1000, n)[-1] == 999 for n in range(1, 1001))


@pytest.mark.parametrize("name", GRIDS)
def test_no_grid_ever_leaves_the_schedule(name):
    for num_steps in range(1, 1001):
        grid = make_grid(name, 1000, num_steps)
        assert grid.dtype == np.int32
        assert grid.min() >= 0 and grid.max() <= 999
        assert np.all(np.diff(grid) >= 0)


@pytest.mark.parametrize("num_steps", [5, 20, 50, 200, 500])
def test_ddim_uniform_is_the_list_of_the_reference(num_steps):
    expected = np.load(GOLDEN)[f"out/S{num_steps}_t"]
    np.testing.assert_array_equal(make_grid("ddim_uniform", 1000, num_steps), expected)


def test_ddim_uniform_gives_more_steps_than_asked_where_the_reference_does():
    counts = [len(make_grid("ddim_uniform", 1000, n)) for n in (27, 150, 300, 400)]
    assert counts == [28, 167, 334, 500]


def test_ddim_uniform_ends_at_the_last_level_where_the_reference_overflows():
    assert make_grid("ddim_uniform", 1000, 3).tolist() == [1, 334, 667, 999]
    assert make_grid("ddim_uniform", 1000, 1000).tolist() == list(range(1, 1000))


def test_ddim_quad_is_the_list_of_the_reference_with_its_duplicate():
    grid = make_grid("ddim_quad", 1000, 50)
    np.testing.assert_array_equal(grid, np.load(GOLDEN)["out/quad50_t"])
    assert len(np.unique(grid)) == 49


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_an_impossible_number_of_steps_is_refused(num_steps):
    with pytest.raises(ValueError, match="ask for 1 to 1000"):
        make_grid("power", 1000, num_steps)


def test_an_unknown_grid_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose one of power, trailing"):
        make_grid("karras", 1000, 10)
