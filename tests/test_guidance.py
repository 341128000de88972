"""Guidance as wrappers: against papers, diffusers and exact posteriors of Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import PREDICTIONS
from ldm_jax.diffusion.denoise import Denoised, diffuse_to
from ldm_jax.diffusion.schedules import Level, linear
from ldm_jax.guidance import (
    Guidance,
    autoguidance,
    classifier,
    classifier_free,
    guide,
    image_guiding,
    interval,
    noise_share,
    rescale,
)
from ldm_jax.samplers import SAMPLERS, make_levels, sample

SCHEDULE = linear(beta_start=0.0015, beta_end=0.0195)
LEVEL = Level(jnp.float32(10.0), jnp.float32(0.6), jnp.float32(0.8))  # share 0.571
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 4, 4, 3))
OUTPUTS = jax.random.normal(jax.random.key(1), (4, 4, 4, 3)) * jnp.arange(1, 5).reshape(
    4, 1, 1, 1
)


def reads(outputs, prediction):
    """A denoiser whose network outputs the same arrays whatever it sees."""
    return lambda x, level: prediction.read(outputs, x, *level[1:])


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_explains(denoised, x, level):
    np.testing.assert_allclose(diffuse_to(level, *denoised), x, rtol=1e-5, atol=1e-5)


def toy_doubled(x, level):
    """Unconditional half: x0 = 0, eps = 1; conditional half: x0 = t, eps = 3."""
    is_cond = jnp.repeat(jnp.array([0.0, 1.0]), len(x) // 2)[:, None, None, None]
    return Denoised(is_cond * level.t + 0 * x, 1 + 2 * is_cond + 0 * x)


def test_scale_one_is_the_conditional_and_zero_the_unconditional_prediction():
    cond = classifier_free(toy_doubled, 1.0)(X, LEVEL)
    uncond = classifier_free(toy_doubled, 0.0)(X, LEVEL)
    for denoised, x0, eps in ((cond, 10, 3), (uncond, 0, 1)):
        np.testing.assert_allclose(denoised.x0, x0)
        np.testing.assert_allclose(denoised.eps, eps)


def test_larger_scales_extrapolate_x0_and_eps_alike():
    guided = classifier_free(toy_doubled, 3.0)(X, LEVEL)
    np.testing.assert_allclose(guided.x0, 30)
    np.testing.assert_allclose(guided.eps, 7)


def test_each_example_may_have_its_own_numbers():
    scale, phi = jnp.array([0.0, 2.0]), jnp.array([0.3, 0.9])
    doubled = reads(OUTPUTS, PREDICTIONS["v"])
    guidance = Guidance(scale, phi, (jnp.array([0.0, 0.6]), 1.0))
    together = guide(doubled, guidance, prediction=PREDICTIONS["v"])(X, LEVEL)
    for k, own in enumerate((Guidance(0.0, 0.3), Guidance(1.0))):  # 1 lies outside
        alone = guide(doubled, own, prediction=PREDICTIONS["v"])(X, LEVEL)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[k], b[k], rtol=1e-6)


def test_guide_with_a_scale_alone_is_classifier_free_to_the_bit():
    doubled = reads(OUTPUTS, PREDICTIONS["eps"])
    expected = classifier_free(doubled, 5.0)(X, LEVEL)
    assert_equal(guide(doubled, Guidance(5.0))(X, LEVEL), expected)
    assert_explains(expected, X, LEVEL)


def test_new_numbers_do_not_compile_anew():
    doubled = reads(OUTPUTS, PREDICTIONS["eps"])
    guided = jax.jit(lambda guidance: guide(doubled, guidance)(X, LEVEL))
    results = [
        guided(Guidance(scale, phi, (low, 0.9)))
        for scale, phi, low in ((3.0, 0.0, 0.0), (7.5, 0.7, 0.1), (1.0, 1.0, 0.8))
    ]
    assert guided._cache_size() == 1
    assert np.abs(results[0].x0 - results[1].x0).max() > 0.1


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaling_the_network_s_output_is_that_of_diffusers(name, phi):
    torch = pytest.importorskip("torch")
    guiders = pytest.importorskip("diffusers.guiders.guider_utils")
    prediction = PREDICTIONS[name]
    doubled = reads(OUTPUTS, prediction)
    guided = guide(doubled, Guidance(4.0, phi), prediction=prediction)(X, LEVEL)
    uncond, cond = map(np.array, jnp.split(OUTPUTS, 2))
    expected = guiders.rescale_noise_cfg(
        torch.from_numpy(uncond + 4 * (cond - uncond)), torch.from_numpy(cond), phi
    )
    actual = prediction.target(*guided, *LEVEL[1:])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert_explains(guided, X, LEVEL)
    if phi == 1:  # eq. 15: the spread of the conditional output
        std = lambda x: np.std(np.asarray(x), axis=(1, 2, 3))
        np.testing.assert_allclose(std(actual), std(cond), rtol=1e-5)


def test_rescale_as_a_wrapper_of_its_own_equals_guide():
    doubled, prediction = reads(OUTPUTS, PREDICTIONS["v"]), PREDICTIONS["v"]
    guided, cond = (classifier_free(doubled, scale) for scale in (4.0, 1.0))
    actual = rescale(guided, cond, 0.7, prediction=prediction)(X, LEVEL)
    expected = guide(doubled, Guidance(4.0, 0.7), prediction=prediction)(X, LEVEL)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", [LEVEL, Level(999.0, 0.0, 1.0)])
def test_an_output_of_zeros_and_a_level_without_signal_stay_finite(level):
    for outputs in (OUTPUTS, jnp.zeros_like(OUTPUTS)):
        doubled = reads(outputs, PREDICTIONS["v"])

        def total(x, phi, doubled=doubled):
            guidance = Guidance(3.0, phi)
            guided = guide(doubled, guidance, prediction=PREDICTIONS["v"])
            return sum(part.sum() for part in guided(x, level))

        value_and_slope = jax.jit(jax.value_and_grad(total))
        for phi in (0.0, 0.7):
            value, slope = value_and_slope(X, phi)
            assert np.isfinite(value) and np.isfinite(slope).all()


@pytest.mark.parametrize(
    "ends,is_guided",
    [((0.0, 1.0), True), ((0.5, 0.6), True), ((0.58, 1.0), False), ((0, 0.57), False)],
)
def test_outside_the_interval_is_the_conditional_model_without_rescale(ends, is_guided):
    doubled = reads(OUTPUTS, PREDICTIONS["eps"])
    inside = guide(doubled, Guidance(4.0, 0.7))(X, LEVEL)
    outside = classifier_free(doubled, 1.0)(X, LEVEL)
    actual = guide(doubled, Guidance(4.0, 0.7, ends))(X, LEVEL)
    assert_equal(actual, inside if is_guided else outside)
    wrapped = interval(
        guide(doubled, Guidance(4.0, 0.7)), classifier_free(doubled, 1.0), *ends
    )
    for a, b in zip(jax.jit(wrapped)(X, LEVEL), actual, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_interval_s_wrapper_calls_only_one_of_the_two():
    calls = []

    def counted(name):
        def denoise_fn(x, level):
            jax.debug.callback(lambda: calls.append(name))
            return Denoised(x, x)

        return denoise_fn

    for low in (0.5, 0.9):
        wrapped = jax.jit(interval(counted("guided"), counted("plain"), low, 1.0))
        jax.block_until_ready(wrapped(X, LEVEL))
        jax.effects_barrier()
    assert calls == ["guided", "plain"]


def test_noise_share_grows_from_clean_to_pure_noise_and_names_a_sigma():
    levels = make_levels(SCHEDULE, 50)
    share = noise_share(levels)
    assert np.all(np.diff(share) < 0) and share[-1] == 0
    assert noise_share(Level(999.0, 0.0, 1.0)) == 1
    assert noise_share(SCHEDULE.level_of_sigma(3.0)) == pytest.approx(0.75)


def test_autoguidance_leads_away_from_the_weak_model():
    strong, weak = (reads(o, PREDICTIONS["eps"]) for o in jnp.split(OUTPUTS, 2))
    assert_equal(autoguidance(strong, weak, 0.0)(X, LEVEL), weak(X, LEVEL))
    guided = autoguidance(strong, weak, 2.5)(X, LEVEL)
    expected = 2.5 * strong(X, LEVEL).eps - 1.5 * weak(X, LEVEL).eps
    np.testing.assert_allclose(guided.eps, expected, rtol=1e-4, atol=1e-5)
    assert_explains(guided, X, LEVEL)


# Data N(MEAN, STD^2), seen as y = x0 + N(0, BLUR^2): every posterior is known.
MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 0.7])
Y, BLUR = np.array([0.9, 0.5, 1.0]), 0.5
GAIN = STD**2 / (STD**2 + BLUR**2)
SEEN_MEAN, SEEN_STD = MEAN + GAIN * (Y - MEAN), STD * np.sqrt(1 - GAIN)


def gaussian(mean, std):
    """E[x0 | x] and Var[x0 | x] for data N(mean, std^2)."""

    def denoise_fn(x, level):
        _, a, s = level
        x0 = mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)
        return Denoised(x0, (x - a * x0) / s)

    variance = lambda level: 1 / (1 / std**2 + (level[1] / level[2]) ** 2)
    return denoise_fn, variance


def log_normal(y, mean, variance):
    return -0.5 * jnp.sum((y - mean) ** 2 / variance, axis=-1)


def log_prob_of_y(x, level):
    """log p(y | x) at a level, but for a constant: what a perfect classifier gives."""
    denoise_fn, variance = gaussian(MEAN, STD)
    return log_normal(Y, denoise_fn(x, level).x0, variance(level) + BLUR**2)


@pytest.mark.parametrize("t", [5.0, 300.0, 990.0])
def test_an_exact_classifier_turns_the_model_into_the_posterior_s(t):
    level = SCHEDULE.level_at(t)
    x = jax.random.normal(KEY, (5, 3))
    expected = gaussian(SEEN_MEAN, SEEN_STD)[0](x, level)
    model, variance = gaussian(MEAN, STD)
    through_x = classifier(model, log_prob_of_y, 1.0)
    through_x0 = image_guiding(
        model, lambda x0: log_normal(Y, x0, variance(level) + BLUR**2), 1.0
    )
    for guided in (through_x, through_x0):
        actual = guided(x, level)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
        assert_explains(actual, x, level)


def test_sampling_with_a_classifier_draws_from_the_posterior():
    guided = classifier(gaussian(MEAN, STD)[0], log_prob_of_y, 1.0)
    plan = SAMPLERS["ddim"].plan(make_levels(SCHEDULE, 100, grid="power"))
    draw = jax.jit(lambda x: sample(guided, SAMPLERS["ddim"], plan, x, KEY))
    x = np.asarray(draw(jax.random.normal(KEY, (4000, 3))))
    np.testing.assert_allclose(x.mean(0), SEEN_MEAN, atol=0.05)
    np.testing.assert_allclose(x.std(0), SEEN_STD, rtol=0.06)


def test_a_gradient_has_no_say_where_there_is_no_signal():
    model = reads(X[:, 0, 0], PREDICTIONS["v"])
    level = Level(999.0, 0.0, 1.0)
    guided = classifier(model, lambda x, level: -(x**2).sum(-1), 0.0)
    assert_equal(guided(X[:, 0, 0], level), model(X[:, 0, 0], level))
