"""Wrappers of x0: clip, dynamic threshold, codebook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoise import (
    Denoised,
    clip_x0,
    diffuse_to,
    map_x0,
    quantize_x0,
    replace_x0,
    threshold_x0,
)
from ldm_jax.diffusion.process import diffuse
from ldm_jax.diffusion.schedules import Level, linear

LEVEL = Level(jnp.float32(10.0), jnp.float32(0.6), jnp.float32(0.8))
X0 = (
    2
    * jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    * jnp.array([0.1, 1, 3]).reshape(3, 1, 1, 1)
)
EPS = jax.random.normal(jax.random.key(1), X0.shape)
X = diffuse_to(LEVEL, X0, EPS)
CODES = jnp.array([-1.5, 0.0, 0.7])


def denoise_fn(x, level):
    return Denoised(X0.astype(x.dtype), EPS.astype(x.dtype))


def quantize(z):
    codes = CODES.astype(z.dtype)
    return codes[jnp.argmin(jnp.abs(z[..., None] - codes), axis=-1)]


WRAPPERS = {
    "map": lambda d: map_x0(d, jnp.tanh),
    "clip": clip_x0,
    "threshold": threshold_x0,
    "quantize": lambda d: quantize_x0(d, quantize),
}


def test_x_at_a_level_is_that_of_the_process():
    schedule = linear()
    level = schedule.level_at(321)
    expected = diffuse(schedule, X0, EPS, jnp.array([321] * 3))
    np.testing.assert_allclose(diffuse_to(level, X0, EPS), expected, rtol=1e-5)


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_new_eps_explains_x_and_the_dtype_is_kept(name):
    denoised = WRAPPERS[name](denoise_fn)(X, LEVEL)
    assert np.abs(denoised.x0 - X0).max() > 0.1
    np.testing.assert_allclose(diffuse_to(LEVEL, *denoised), X, rtol=1e-5, atol=1e-6)
    level = Level(*(jnp.bfloat16(value) for value in LEVEL))
    half = WRAPPERS[name](denoise_fn)(X.astype(jnp.bfloat16), level)
    assert half.x0.dtype == half.eps.dtype == jnp.bfloat16


def test_clipping_leaves_what_is_in_range():
    clipped = clip_x0(denoise_fn, 0.5)(X, LEVEL)
    np.testing.assert_allclose(clipped.x0, np.clip(X0, -0.5, 0.5))
    assert np.any(np.abs(X0) < 0.5)


@pytest.mark.parametrize("quantile", [0.9, 0.995])
def test_dynamic_threshold_is_that_of_diffusers(quantile):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=100.0
    )
    expected = scheduler._threshold_sample(torch.from_numpy(np.array(X0)))
    actual = threshold_x0(denoise_fn, quantile)(X, LEVEL).x0
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_dynamic_threshold_brings_each_example_to_the_limit_and_shrinks_no_other():
    x0 = np.asarray(threshold_x0(denoise_fn, 0.9, 0.5)(X, LEVEL).x0)
    sizes = np.abs(np.asarray(X0)).reshape(3, -1)
    q = np.quantile(sizes, 0.9, axis=1)
    assert q[0] < 0.5 < q[1]
    np.testing.assert_allclose(x0[0], np.clip(X0[0], -0.5, 0.5))
    for k in (1, 2):
        expected = np.clip(X0[k], -q[k], q[k]) * 0.5 / q[k]
        np.testing.assert_allclose(x0[k], expected, rtol=1e-5)
    traced = jax.jit(lambda *numbers: threshold_x0(denoise_fn, *numbers)(X, LEVEL))
    np.testing.assert_allclose(traced(0.9, 0.5).x0, x0, rtol=1e-6)


def test_codes_are_looked_up_at_the_scale_of_the_first_stage():
    for scale in (1.0, 0.25):
        x0 = quantize_x0(denoise_fn, quantize, scale)(X, LEVEL).x0
        np.testing.assert_allclose(x0 / scale, quantize(X0 / scale), rtol=1e-6)
        assert set(np.unique(x0 / scale)) <= set(np.asarray(CODES))


def test_the_reference_s_quantised_step_keeps_eps():
    x0, eps = replace_x0(denoise_fn, quantize)(X, LEVEL)
    np.testing.assert_array_equal(eps, EPS)
    np.testing.assert_array_equal(x0, quantize(X0))
