"""Every sampler in SAMPLERS draws distributions whose score is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_score import (
    LDM,
    MEAN,
    MIXTURE_COVARIANCE,
    MIXTURE_MEAN,
    MODE_MEANS,
    MODE_STDS,
    MODE_WEIGHTS,
    STD,
    draw,
    drawing,
    gaussian_denoise_fn,
    levels_of,
    mixture_denoise_fn,
    point_denoise_fn,
)

from ldm_jax.diffusion.schedules import Level
from ldm_jax.samplers import SAMPLERS, make_levels, pad, sample
from ldm_jax.samplers.base import sample_with_previews

KEY = jax.random.key(0)
X_T = jax.random.normal(KEY, (4000, 2, 3))
POWER, KARRAS = {"grid": "power"}, {"grid": "karras"}

# sampler, its options, number of steps, levels
VARIANTS = [
    ("ddim", {}, 200, {}),
    ("ddim", {"eta": 1.0}, 200, POWER),
    ("ddim", {"eta": 0.5}, 200, {"grid": "leading"}),
    ("ddim", {}, 200, {"grid": "ddim_uniform", "final": "first"}),
    ("ddpm", {}, None, {}),
    ("ddpm", {"variance": "beta"}, 300, POWER),
    ("ddpm", {}, 300, POWER),
    ("euler", {}, 100, KARRAS),
    ("euler", {"churn": 10.0}, 200, KARRAS),
    ("euler_ancestral", {}, 200, KARRAS),
    ("heun", {}, 30, KARRAS),
    ("heun", {"churn": 40.0, "churn_min": 0.05, "churn_max": 10.0}, 60, KARRAS),
    ("plms", {}, 30, POWER),
    ("plms", {}, 50, {"grid": "ddim_uniform", "final": "first"}),
    ("dpmpp_2s", {}, 50, POWER),
    ("dpmpp_2m", {}, 30, KARRAS),
    ("dpmpp_2m", {}, 200, {"grid": "time_uniform", "final": "first"}),
    ("dpmpp_sde_2m", {}, 60, POWER),
    ("dpmpp_sde_2m", {"eta": 0.5}, 40, KARRAS),
    ("unipc", {"order": 1}, 50, KARRAS),
    ("unipc", {}, 30, KARRAS),
    ("unipc", {"order": 3}, 30, KARRAS),
    ("unipc", {"order": 3, "b_h": "bh1"}, 30, KARRAS),
]
FIRST_ORDER = ("ddim", "ddpm", "euler", "euler_ancestral")


def test_every_sampler_is_covered():
    assert {name for name, *_ in VARIANTS} == set(SAMPLERS)


@pytest.mark.parametrize("name,options,num_steps,levels", VARIANTS)
def test_a_gaussian_comes_back_with_its_mean_and_variance(
    name, options, num_steps, levels
):
    levels = make_levels(LDM, num_steps, **levels)
    x = draw(name, options, levels, gaussian_denoise_fn, X_T, jax.random.key(1))
    assert_is_the_gaussian(x)


def assert_is_the_gaussian(x):
    x = x.reshape(-1, 3)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.06)


@pytest.mark.parametrize("schedule", ["zero_terminal_snr", "rectified_flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_gaussian_comes_back_from_a_level_without_signal(name, schedule):
    num_steps = 300 if name in FIRST_ORDER else 60
    levels = levels_of(schedule, num_steps, **POWER)
    assert levels.signal_scale[0] == 0
    assert_is_the_gaussian(draw(name, {}, levels, gaussian_denoise_fn, X_T, KEY))


@pytest.mark.parametrize("schedule", ["ldm", "rectified_flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_mixture_comes_back_with_its_modes_mean_and_covariance(name, schedule):
    x_T = jax.random.normal(jax.random.key(0), (4000, 2))
    num_steps = 200 if name in FIRST_ORDER else 60
    levels = levels_of(schedule, num_steps, **POWER)
    x = draw(name, {}, levels, mixture_denoise_fn, x_T, jax.random.key(1))
    np.testing.assert_allclose(x.mean(0), MIXTURE_MEAN, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T), MIXTURE_COVARIANCE, atol=0.1)
    nearest = np.argmin(((x[:, None] - MODE_MEANS) ** 2).sum(-1), axis=1)
    for mode in range(3):
        drawn = x[nearest == mode]
        assert len(drawn) / len(x) == pytest.approx(MODE_WEIGHTS[mode], abs=0.02)
        np.testing.assert_allclose(drawn.mean(0), MODE_MEANS[mode], atol=0.05)
        np.testing.assert_allclose(drawn.std(0), MODE_STDS[mode], rtol=0.08)


DETERMINISTIC = [
    ("ddim", {}),
    ("euler", {}),
    ("heun", {}),
    ("plms", {}),
    ("dpmpp_2s", {}),
    ("dpmpp_2m", {}),
    ("dpmpp_sde_2m", {"eta": 0.0}),
    ("unipc", {"order": 2}),
    ("unipc", {"order": 3, "b_h": "bh1"}),
]
STOCHASTIC = [
    ("ddim", {"eta": 1.0}),
    ("ddpm", {}),
    ("euler", {"churn": 3.0}),
    ("euler_ancestral", {}),
    ("heun", {"churn": 3.0}),
    ("dpmpp_sde_2m", {}),
    ("dpmpp_sde_2m", {"eta": 0.5}),
]
# Seven steps, two of them on one level.
WITH_A_REPEATED_LEVEL = {"grid": (999, 700, 400, 400, 200, 50, 7), "final": "first"}


@pytest.mark.parametrize("schedule", ["ldm", "rectified_flow"])
@pytest.mark.parametrize("name,options", DETERMINISTIC + STOCHASTIC)
def test_data_of_one_point_is_reached_at_any_spacing_of_levels(name, options, schedule):
    """The model is exact there, so steps must be: in x and in the noise that is left."""
    levels = levels_of(schedule, None, **WITH_A_REPEATED_LEVEL)
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    x_T = levels.signal_scale[0] * 0.7 + levels.noise_scale[0] * noise
    x = draw(name, options, levels, point_denoise_fn, x_T, jax.random.key(1))
    left = (x - levels.signal_scale[-1] * 0.7) / levels.noise_scale[-1]
    if (name, options) in DETERMINISTIC:
        np.testing.assert_allclose(left, noise, atol=2e-3)
    else:
        assert left.mean() == pytest.approx(0, abs=0.03)
        assert left.std() == pytest.approx(1, abs=0.02)
        assert abs(np.corrcoef(left[:, 0], noise[:, 0])[0, 1]) < 0.95


@pytest.mark.parametrize("name,options", DETERMINISTIC + STOCHASTIC)
def test_samplers_are_the_same_in_every_schedule_s_coordinates(name, options):
    """x / signal_scale depends on the signal-to-noise ratios visited alone."""
    levels = make_levels(LDM, 12, **KARRAS)
    sigma = levels.noise_scale / levels.signal_scale
    straight = Level(levels.t, 1 / (1 + sigma), sigma / (1 + sigma))
    x_T = jax.random.normal(jax.random.key(0), (4000, 2))
    expected = draw(name, options, levels, mixture_denoise_fn, x_T, KEY)
    x_T = x_T * straight.signal_scale[0] / levels.signal_scale[0]
    actual = draw(name, options, straight, mixture_denoise_fn, x_T, KEY)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_the_sde_solver_has_the_right_variance_at_few_steps():
    levels = make_levels(LDM, 20, **KARRAS)
    stds = {}
    for name in ("dpmpp_sde_2m", "ddpm"):
        x = draw(name, {}, levels, gaussian_denoise_fn, X_T, jax.random.key(1))
        stds[name] = x.reshape(-1, 3).std(0)
    np.testing.assert_allclose(stds["dpmpp_sde_2m"], STD, rtol=0.08)
    assert np.all(stds["ddpm"] < 0.85 * STD)


OPTIONS = [
    ("ddim", {"eta": 0.3}, {"eta": 0.9, "temperature": 0.5}),
    ("ddpm", {"variance": "beta"}, {"temperature": 0.5}),
    ("euler", {}, {"churn": 7.0}),
    ("heun", {}, {"churn": 7.0, "churn_min": 0.1}),
    ("dpmpp_sde_2m", {"eta": 0.3}, {"eta": 0.9, "temperature": 0.5}),
    ("unipc", {"order": 1}, {"order": 3, "b_h": "bh1", "final_order": 2}),
]


@pytest.mark.parametrize("name,some,other", OPTIONS)
def test_options_change_the_picture_but_not_the_program(name, some, other):
    levels, program = make_levels(LDM, 6), drawing(name, gaussian_denoise_fn)
    a = draw(name, some, levels, gaussian_denoise_fn, X_T, KEY)
    num_programs = program._cache_size()
    b = draw(name, other, levels, gaussian_denoise_fn, X_T, KEY)
    assert np.abs(a - b).max() > 1e-3
    assert program._cache_size() == num_programs


REFUSED = [
    ("dpmpp_sde_2m", {"eta": -0.1}, "eta is -0.1"),
    ("euler", {"churn": -1.0}, "churn is -1.0"),
    ("heun", {"churn": float("nan")}, "churn is nan"),
    ("unipc", {"order": 4}, "order is 4"),
    ("unipc", {"b_h": "bh3"}, "choose 'bh1' or 'bh2'"),
    ("unipc", {"final_order": 0}, "final_order is 0"),
]


@pytest.mark.parametrize("name,options,message", REFUSED)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name].plan(make_levels(LDM, 5), **options)


def test_ddim_quad_loses_the_mean_that_is_left_at_its_first_timestep():
    """It starts at 0.8 T from pure noise, as the reference does."""
    first = LDM.signal_scales[801]
    levels = make_levels(LDM, 200, grid="ddim_quad")
    x = draw("ddim", {}, levels, gaussian_denoise_fn, X_T, KEY).reshape(-1, 3)
    lost = 1 - x[:, 1].mean() / MEAN[1]
    assert lost == pytest.approx(first, abs=0.03)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_and_dtype_of_the_noise_are_kept(name):
    sampler = SAMPLERS[name]
    plan = sampler.plan(make_levels(LDM, 3))
    for dtype in (jnp.float32, jnp.bfloat16):
        x_T = jnp.ones((2, 4, 4, 3), dtype)
        run = lambda x: sample(gaussian_denoise_fn, sampler, plan, x, KEY)
        x = jax.eval_shape(run, x_T)
        assert x.shape == x_T.shape and x.dtype == dtype


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_leads_to_x0(name):
    x = draw(name, {}, make_levels(LDM, 1), gaussian_denoise_fn, X_T, KEY)
    expected = gaussian_denoise_fn(X_T, LDM.level_at(999.0)).x0
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_runs_in_one_program(name):
    program = drawing(name, gaussian_denoise_fn)
    drawn = [
        draw(name, {}, make_levels(LDM, n), gaussian_denoise_fn, X_T, KEY).std()
        for n in (2, 3, 6, 7)
    ]
    assert len(set(drawn)) == 4
    assert program._cache_size() == 1


@functools.cache
def five_steps(name):
    """x, previews and the number of calls of the model; of a plan without padding."""
    calls = []

    def counting(x, level):
        jax.debug.callback(lambda t: calls.append(float(t)), level.t)
        return gaussian_denoise_fn(x, level)

    plan = SAMPLERS[name].plan(make_levels(LDM, 5))
    chosen = jnp.array([0, 4, 6])
    run = lambda x: sample_with_previews(counting, SAMPLERS[name], plan, x, KEY, chosen)
    x, previews = jax.block_until_ready(run(X_T))
    jax.effects_barrier()
    return np.asarray(x), np.asarray(previews), len(calls)


@pytest.mark.parametrize("name", SAMPLERS)
def test_padding_changes_nothing(name):
    padded = draw(name, {}, make_levels(LDM, 5), gaussian_denoise_fn, X_T, KEY)
    np.testing.assert_allclose(padded, five_steps(name)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_model_is_called_once_a_step_but_by_heun_and_in_plms_s_first(name):
    expected = {"heun": 2 * 5 - 1, "plms": 5 + 1}.get(name, 5)
    assert five_steps(name)[2] == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_previews_are_the_x0_of_the_chosen_steps(name):
    _, previews, _ = five_steps(name)
    first = gaussian_denoise_fn(X_T, LDM.level_at(999.0)).x0
    np.testing.assert_allclose(previews[0], first, rtol=1e-4, atol=1e-5)
    assert np.abs(previews[1] - previews[0]).max() > 0.1
    np.testing.assert_array_equal(previews[2], 0)  # not run


# One of each kind of step.
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "heun", "plms", "unipc"])
def test_sampling_can_be_differentiated(name):
    sampler = SAMPLERS[name]
    plan = pad(sampler.plan(make_levels(LDM, 3)), 4)
    x_T = jax.random.normal(KEY, (2, 3))
    loss = lambda x: sample(gaussian_denoise_fn, sampler, plan, x, KEY).sum()
    value_and_slopes = jax.jit(jax.value_and_grad(loss))
    slope = value_and_slopes(x_T)[1][0, 0]
    step = jnp.zeros_like(x_T).at[0, 0].set(0.1)
    above, below = (value_and_slopes(x)[0] for x in (x_T + step, x_T - step))
    assert float(slope) == pytest.approx(float(above - below) / 0.2, rel=0.02)


def test_a_plan_that_is_too_long_is_refused():
    plan = SAMPLERS["ddim"].plan(make_levels(LDM, 9))
    with pytest.raises(ValueError, match="does not fit 8 rows"):
        pad(plan, 8)
