"""Classifier-free guidance as a wrapper."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.denoise import Denoised
from ldm_jax.diffusion.schedules import Level
from ldm_jax.guidance import classifier_free


def doubled(x, level):
    """Unconditional half: x0 = 0, eps = 1; conditional half: x0 = t, eps = 3."""
    is_cond = jnp.repeat(jnp.array([0.0, 1.0]), len(x) // 2)[:, None]
    return Denoised(is_cond * level.t + 0 * x, 1 + 2 * is_cond + 0 * x)


X, T = jnp.zeros((2, 3)), 10.0
LEVEL = Level(jnp.float32(T), jnp.float32(0.6), jnp.float32(0.8))


def test_scale_one_is_the_conditional_and_zero_the_unconditional_prediction():
    cond, uncond = (
        classifier_free(doubled, 1.0)(X, LEVEL),
        classifier_free(doubled, 0.0)(X, LEVEL),
    )
    np.testing.assert_allclose(cond.x0[:, 0], T)
    np.testing.assert_allclose(cond.eps, 3)
    np.testing.assert_allclose(uncond.x0, 0)
    np.testing.assert_allclose(uncond.eps, 1)


def test_larger_scales_extrapolate_x0_and_eps_alike():
    guided = classifier_free(doubled, 3.0)(X, LEVEL)
    np.testing.assert_allclose(guided.x0[:, 0], 3 * T)
    np.testing.assert_allclose(guided.eps, 7)


def test_each_example_may_have_its_own_scale():
    guided = classifier_free(doubled, jnp.array([0.0, 2.0]))(X, LEVEL)
    np.testing.assert_allclose(guided.eps[:, 0], [1, 5])
