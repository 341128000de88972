"""Samplers against the original's end points and diffusers' schedulers, step by step."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.arrays import normal_like
from ldm_jax.diffusion.predictions import EPS
from ldm_jax.diffusion.schedules import linear
from ldm_jax.guidance import classifier_free
from ldm_jax.rng import step_key
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/sampler_trajectories.npz"
SCHEDULE = linear(beta_start=0.00085, beta_end=0.012)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
REFERENCE = {"grid": "ddim_uniform", "final": "first"}
TIME_UNIFORM = {"grid": "time_uniform", "final": "first"}
KEY = jax.random.key(3)


def assert_within(actual, expected, tolerance):
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert error < tolerance, error


# --- the original ---


def golden_denoise_fn(c):
    def denoise_fn(x, level):
        t, a, s = level
        wave = jnp.tanh(0.7 * x + 0.001 * t) * jnp.cos(0.002 * t)
        return EPS.read(wave + 0.3 * jnp.sin(c)[:, None, None, :], x, a, s)

    return denoise_fn


GOLDEN_RUNS = {  # name there: sampler, levels, guidance scale
    "ddim_S{}": ("ddim", REFERENCE, None),
    "ddim_S{}_cfg3": ("ddim", REFERENCE, 3.0),
    "plms_S{}": ("plms", REFERENCE, None),
    "dpm_S{}": ("dpmpp_2m", TIME_UNIFORM, 3.0),
}


@pytest.mark.parametrize("name", GOLDEN_RUNS)
def test_trajectories_end_where_the_original_s_end(name):
    golden = np.load(GOLDEN)
    x_T = golden["in/xT"].transpose(0, 2, 3, 1)
    sampler_name, levels, scale = GOLDEN_RUNS[name]
    sampler = SAMPLERS[sampler_name]
    denoise_fn = golden_denoise_fn(golden["in/c"])
    if scale is not None:
        both = np.concatenate([golden["in/uc"], golden["in/c"]])
        denoise_fn = classifier_free(golden_denoise_fn(both), scale)
    draw = jax.jit(lambda plan: sample(denoise_fn, sampler, plan, x_T, KEY))
    for num_steps in (5, 10, 20, 50):
        expected = golden["out/" + name.format(num_steps)].transpose(0, 2, 3, 1)
        plan = sampler.plan(make_levels(SCHEDULE, num_steps, **levels))
        assert_within(draw(pad(plan, 64)), expected, 1e-5)


# --- diffusers ---


@functools.cache
def random_eps_fn():
    """One small network with fixed weights: eps of x `[b h w c]` and t."""
    keys = jax.random.split(jax.random.key(7), 4)
    w_x, w_t = jax.random.normal(keys[0], (4, 32)), jax.random.normal(keys[1], (6, 32))
    w_out, bias = jax.random.normal(keys[2], (32, 4)), jax.random.normal(keys[3], (32,))

    @jax.jit
    def eps_fn(x, t):
        waves = t / 1000 * jnp.array([1.0, 2.0, 4.0])
        time = jnp.concatenate([jnp.cos(waves), jnp.sin(waves)])
        hidden = jnp.tanh(x @ w_x / 2 + jnp.roll(x, 1, axis=1) @ w_x / 4 + time @ w_t)
        return jnp.tanh(hidden + bias) @ w_out / 8

    return eps_fn


def denoise_fn(x, level):
    return EPS.read(random_eps_fn()(x, level.t), x, *level[1:])


@functools.cache
def jitted_step(name):
    return jax.jit(lambda *args: SAMPLERS[name].step(denoise_fn, *args))


def our_trajectory(name, options, levels, x):
    """x after each step."""
    sampler = SAMPLERS[name]
    plan = sampler.plan(levels, **options)
    state, trajectory = sampler.init(x), []
    for index in range(plan.num_rows):
        row = jax.tree.map(lambda table, index=index: table[index], plan.rows)
        x, state, _ = jitted_step(name)(x, state, row, step_key(KEY, index))
        trajectory.append(np.asarray(x))
    return np.stack(trajectory)


def diffusers_trajectory(monkeypatch, scheduler, levels, x_T, **step_options):
    """x after each step, from its calls of the model, with our noise as its noise."""
    torch = pytest.importorskip("torch")
    trajectory = []

    def our_noise(*_, **__):
        noise = normal_like(step_key(KEY, len(trajectory)), x_T)
        return torch.from_numpy(np.array(noise))

    module = importlib.import_module(type(scheduler).__module__)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", our_noise)
    # Some schedulers step y = x / signal_scale, which their first sigma gives away.
    is_scaled = scheduler.init_noise_sigma != 1
    scales = levels.signal_scale if is_scaled else np.ones(len(levels.t))
    x = torch.from_numpy(np.array(x_T)) / scales[0]
    for index, t in enumerate(scheduler.timesteps):
        model_input = jnp.asarray(scheduler.scale_model_input(x, t).numpy())
        eps = np.array(random_eps_fn()(model_input, float(t)))
        eps = torch.from_numpy(eps)
        x = scheduler.step(eps, t, x, **step_options).prev_sample
        if not is_halfway(scheduler, index):
            trajectory.append(x.numpy() * scales[len(trajectory) + 1])
    return np.stack(trajectory)


def is_halfway(scheduler, index):
    """Whether a step is not yet over: those of two calls of the model."""
    name = type(scheduler).__name__
    if name == "PNDMScheduler":
        return index == 0
    is_last = index + 1 == len(scheduler.timesteps)
    is_heun = name == "HeunDiscreteScheduler"
    return is_heun and not scheduler.state_in_first_order and not is_last


TRAILING, LEADING = {"grid": "trailing"}, {"grid": "leading"}
LARGE = {"variance_type": "fixed_large", "timestep_spacing": "leading"}
UNCLIPPED = {"clip_sample": False}
TO_FIRST = {"grid": "trailing", "final": "first"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
# ours, options, levels; theirs, options
SCHEDULERS = [
    ("ddpm", {}, TRAILING, "DDPM", UNCLIPPED),
    ("ddpm", {"variance": "beta"}, LEADING, "DDPM", UNCLIPPED | LARGE),
    ("ddim", {}, TRAILING, "DDIM", UNCLIPPED),
    ("ddim", {"eta": 0.7}, TRAILING, "DDIM", UNCLIPPED),
    ("ddim", {}, TO_FIRST, "DDIM", UNCLIPPED | {"set_alpha_to_one": False}),
    ("plms", {}, TRAILING, "PNDM", {"set_alpha_to_one": True}),
    ("plms", {}, TO_FIRST, "PNDM", {}),
    ("euler", {}, TRAILING, "EulerDiscrete", {}),
    ("euler", {}, {"grid": "karras"}, "EulerDiscrete", {"use_karras_sigmas": True}),
    ("euler_ancestral", {}, TRAILING, "EulerAncestralDiscrete", {}),
    ("heun", {}, TRAILING, "HeunDiscrete", {}),
    ("heun", {}, {"grid": "karras"}, "HeunDiscrete", {"use_karras_sigmas": True}),
    ("dpmpp_2m", {}, TRAILING, "DPMSolverMultistep", {}),
    ("dpmpp_2m", {}, TO_FIRST, "DPMSolverMultistep", SIGMA_MIN),
    ("dpmpp_sde_2m", {}, TRAILING, "DPMSolverMultistep", SDE),
    ("dpmpp_sde_2m", {}, TO_FIRST, "DPMSolverMultistep", SDE | SIGMA_MIN),
    ("dpmpp_2s", {}, TRAILING, "DPMSolverSinglestep", {}),
    ("dpmpp_2s", {}, TO_FIRST, "DPMSolverSinglestep", SIGMA_MIN),
    ("unipc", {}, TRAILING, "UniPCMultistep", {}),
    ("unipc", {"order": 1}, TRAILING, "UniPCMultistep", {"solver_order": 1}),
    ("unipc", {"order": 3}, TRAILING, "UniPCMultistep", {"solver_order": 3}),
]
# Their bh1 gives NaN where the last level is clean.
SCHEDULERS += [
    (
        "unipc",
        {"order": order, "b_h": b_h},
        TO_FIRST,
        "UniPCMultistep",
        SIGMA_MIN | {"solver_order": order},
    )
    for order in (1, 2, 3)
    for b_h in ("bh1", "bh2")
]


def make_scheduler(name, options, our_options, levels):
    """Theirs, on our levels."""
    diffusers = pytest.importorskip("diffusers")
    # Karras' sigmas run between the ends of the spacing.
    spacing = "linspace" if "use_karras_sigmas" in options else "trailing"
    arguments = BETAS | {"timestep_spacing": spacing} | options
    if name == "PNDM":
        arguments["skip_prk_steps"] = True
    if name == "UniPCMultistep":
        arguments["solver_type"] = our_options.get("b_h", "bh2")
    if name == "DPMSolverSinglestep":
        del arguments["timestep_spacing"]  # it has one, or a list of timesteps
    scheduler = getattr(diffusers, name + "Scheduler")(**arguments)
    if name == "DPMSolverSinglestep":
        scheduler.set_timesteps(timesteps=levels.t[:-1].astype(int).tolist())
    else:
        scheduler.set_timesteps(len(levels.t) - 1)
    return scheduler


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("name,options,grid,theirs,their_options", SCHEDULERS)
def test_diffusers_takes_the_same_steps(
    monkeypatch, name, options, grid, theirs, their_options
):
    x_T = jax.random.normal(jax.random.key(1), (2, 3, 4, 4))
    for num_steps in (10, 20):
        levels = make_levels(SCHEDULE, num_steps, **grid)
        scheduler = make_scheduler(theirs, their_options, options, levels)
        step_options = options if theirs == "DDIM" else {}
        expected = diffusers_trajectory(
            monkeypatch, scheduler, levels, x_T, **step_options
        )
        actual = our_trajectory(name, options, levels, x_T)
        assert actual.shape == expected.shape == (num_steps, *x_T.shape)
        for ours, other in zip(actual, expected, strict=True):
            assert_within(ours, other, 1e-5)
