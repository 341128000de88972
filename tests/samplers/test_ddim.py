"""DDIM against the reference's parameters and trajectories, DDPM and diffusers."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.process import posterior, scales_at
from ldm_jax.diffusion.schedules import linear
from ldm_jax.guidance import classifier_free
from ldm_jax.samplers import ddim, sample
from ldm_jax.samplers.ddim import ddim_parameters
from ldm_jax.samplers.grids import make_grid

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "golden"
SCHEDULE = linear(beta_start=0.00085, beta_end=0.012)
REFERENCE = {"grid": "ddim_uniform", "final_alpha_bar": "first"}


def toy_denoise_fn(c):
    """The eps model of the golden trajectories, conditioned on c `[b c]`."""

    def denoise_fn(x, t):
        a, s = scales_at(SCHEDULE, t, x.ndim)
        time = t[:, None, None, None]
        wave = jnp.tanh(0.7 * x + 0.001 * time) * jnp.cos(0.002 * time)
        return EPS.read(wave + 0.3 * jnp.sin(c)[:, None, None, :], x, a, s)

    return denoise_fn


def golden_trajectory(name):
    golden = np.load(GOLDEN_DIR / "sampler_trajectories.npz")
    nhwc = lambda x: np.transpose(x, (0, 2, 3, 1))
    return (
        nhwc(golden["in/xT"]),
        golden["in/c"],
        golden["in/uc"],
        nhwc(golden[f"out/{name}"]),
    )


def assert_within(actual, expected, tolerance=1e-5):
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert error < tolerance, error


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [5, 20, 50, 200, 500])
def test_parameters_are_those_of_the_reference(num_steps, eta):
    golden = np.load(GOLDEN_DIR / "ddim_parameters_sd_schedule.npz")
    actual = ddim_parameters(SCHEDULE, num_steps, eta=eta, **REFERENCE)
    np.testing.assert_array_equal(actual.t, golden[f"out/S{num_steps}_t"])
    assert_within(actual.alpha_bar, golden[f"out/S{num_steps}_alpha"])
    assert_within(actual.alpha_bar_prev, golden[f"out/S{num_steps}_alpha_prev"])
    expected = golden[f"out/S{num_steps}_eta{eta}_sigma"]
    np.testing.assert_allclose(actual.sigma, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
def test_trajectory_ends_where_the_reference_ends(num_steps):
    x_T, c, _, expected = golden_trajectory(f"ddim_S{num_steps}")
    sampler = ddim(SCHEDULE, num_steps, **REFERENCE)
    actual = sample(toy_denoise_fn(c), sampler, x_T, jax.random.key(0))
    assert_within(actual, expected)


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
def test_guided_trajectory_ends_where_the_reference_ends(num_steps):
    x_T, c, uc, expected = golden_trajectory(f"ddim_S{num_steps}_cfg3")
    denoise_fn = classifier_free(toy_denoise_fn(np.concatenate([uc, c])), 3.0)
    sampler = ddim(SCHEDULE, num_steps, **REFERENCE)
    assert_within(sample(denoise_fn, sampler, x_T, jax.random.key(0)), expected)


def test_ddim_with_eta_one_matches_ddpm_variance():
    parameters = ddim_parameters(
        SCHEDULE, 50, eta=1.0, grid="power", final_alpha_bar="one"
    )
    q = posterior(parameters.alpha_bar, parameters.alpha_bar_prev)
    np.testing.assert_allclose(parameters.sigma**2, q.variance, rtol=1e-9)


def test_the_last_step_leads_to_x0():
    def denoise_fn(x, t):
        return Denoised(jnp.full_like(x, 0.25), x)

    x = jnp.ones((2, 3))
    actual = sample(denoise_fn, ddim(SCHEDULE, 7, eta=1.0), x, jax.random.key(0))
    np.testing.assert_allclose(actual, 0.25, rtol=1e-6)


def test_eta_zero_ignores_the_key_and_temperature_scales_the_noise():
    x_T, c, _, _ = golden_trajectory("ddim_S5")
    run = lambda seed, **options: np.asarray(
        sample(
            toy_denoise_fn(c), ddim(SCHEDULE, 5, **options), x_T, jax.random.key(seed)
        )
    )
    np.testing.assert_array_equal(run(0), run(1))
    assert np.abs(run(0, eta=1.0) - run(1, eta=1.0)).max() > 0.1
    np.testing.assert_array_equal(
        run(0, eta=1.0, temperature=0.0), run(1, eta=1.0, temperature=0.0)
    )


def test_an_unknown_final_level_is_refused():
    with pytest.raises(ValueError, match="'one' or 'first'"):
        ddim(SCHEDULE, 5, final_alpha_bar="zero")


def test_diffusers_agrees_step_by_step():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    x_T, c, _, _ = golden_trajectory("ddim_S10")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    t_expected = scheduler.timesteps.numpy()[::-1]
    np.testing.assert_array_equal(make_grid("trailing", 1000, 10), t_expected)
    x = torch.from_numpy(x_T)
    for t in scheduler.timesteps:
        _, eps = toy_denoise_fn(c)(x.numpy(), np.full(len(x), float(t), np.float32))
        x = scheduler.step(torch.from_numpy(np.array(eps)), t, x).prev_sample
    sampler = ddim(SCHEDULE, 10, grid="trailing")
    actual = sample(toy_denoise_fn(c), sampler, x_T, jax.random.key(0))
    assert_within(actual, x.numpy())
