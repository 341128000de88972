"""DDIM against the reference's parameters and trajectories, DDPM and diffusers."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.process import posterior
from ldm_jax.diffusion.schedules import linear
from ldm_jax.guidance import classifier_free
from ldm_jax.samplers import make_levels, sample
from ldm_jax.samplers.base import pairs
from ldm_jax.samplers.ddim import DDIM

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "golden"
SCHEDULE = linear(beta_start=0.00085, beta_end=0.012)
REFERENCE = {"grid": "ddim_uniform", "final": "first"}
KEY = jax.random.key(0)


def toy_denoise_fn(c):
    """The eps model of the golden trajectories, conditioned on c `[b c]`."""

    def denoise_fn(x, level):
        t, a, s = level
        wave = jnp.tanh(0.7 * x + 0.001 * t) * jnp.cos(0.002 * t)
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
    level, after = pairs(make_levels(SCHEDULE, num_steps, **REFERENCE))
    sigma = eta * np.sqrt(posterior(level, after).variance)[::-1]
    names = {"t": level.t, "alpha": level.signal_scale**2}
    names |= {"alpha_prev": after.signal_scale**2}
    for name, actual in names.items():
        assert_within(actual[::-1], golden[f"out/S{num_steps}_{name}"])
    expected = golden[f"out/S{num_steps}_eta{eta}_sigma"]
    np.testing.assert_allclose(sigma, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
def test_trajectory_ends_where_the_reference_ends(num_steps):
    x_T, c, _, expected = golden_trajectory(f"ddim_S{num_steps}")
    plan = DDIM.plan(make_levels(SCHEDULE, num_steps, **REFERENCE))
    assert_within(sample(toy_denoise_fn(c), DDIM, plan, x_T, KEY), expected)


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
def test_guided_trajectory_ends_where_the_reference_ends(num_steps):
    x_T, c, uc, expected = golden_trajectory(f"ddim_S{num_steps}_cfg3")
    denoise_fn = classifier_free(toy_denoise_fn(np.concatenate([uc, c])), 3.0)
    plan = DDIM.plan(make_levels(SCHEDULE, num_steps, **REFERENCE))
    assert_within(sample(denoise_fn, DDIM, plan, x_T, KEY), expected)


def test_the_last_step_leads_to_x0():
    def denoise_fn(x, level):
        return Denoised(jnp.full_like(x, 0.25), x)

    plan = DDIM.plan(make_levels(SCHEDULE, 7), eta=1.0)
    actual = sample(denoise_fn, DDIM, plan, jnp.ones((2, 3)), KEY)
    np.testing.assert_allclose(actual, 0.25, rtol=1e-6)


def test_eta_zero_ignores_the_key_and_temperature_scales_the_noise():
    x_T, c, _, _ = golden_trajectory("ddim_S5")

    def run(seed, **options):
        plan = DDIM.plan(make_levels(SCHEDULE, 5), **options)
        key = jax.random.key(seed)
        return np.asarray(sample(toy_denoise_fn(c), DDIM, plan, x_T, key))

    np.testing.assert_array_equal(run(0), run(1))
    assert np.abs(run(0, eta=1.0) - run(1, eta=1.0)).max() > 0.1
    np.testing.assert_array_equal(
        run(0, eta=1.0, temperature=0.0), run(1, eta=1.0, temperature=0.0)
    )


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match="from 0 to 1"):
        DDIM.plan(make_levels(SCHEDULE, 5), eta=eta)


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
    levels = make_levels(SCHEDULE, 10, grid="trailing")
    np.testing.assert_array_equal(levels.t[:-1], scheduler.timesteps.numpy())
    x = torch.from_numpy(x_T)
    for t in scheduler.timesteps:
        _, eps = toy_denoise_fn(c)(x.numpy(), SCHEDULE.level_at(float(t)))
        eps = np.asarray(eps, np.float32).copy()
        x = scheduler.step(torch.from_numpy(eps), t, x).prev_sample
    actual = sample(toy_denoise_fn(c), DDIM, DDIM.plan(levels), x_T, KEY)
    assert_within(actual, x.numpy())
