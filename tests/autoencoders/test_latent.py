"""Latents: moments round trip, sampling, KL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.autoencoders import Code, Gaussian


@pytest.mark.parametrize("kind", [Gaussian, Code])
def test_moments_round_trip_through_an_array(kind):
    moments = jax.random.normal(jax.random.key(0), (2, 3, 4, 6))
    latent = kind.from_moments(moments)
    again = kind.from_moments(latent.moments)
    np.testing.assert_array_equal(latent.moments, moments)
    np.testing.assert_array_equal(
        again.sample(jax.random.key(1)), latent.sample(jax.random.key(1))
    )


def test_gaussian_samples_have_its_mean_and_deviation():
    mean, logvar = jnp.full((1, 100, 100, 2), 3.0), jnp.full((1, 100, 100, 2), -2.0)
    latent = Gaussian(mean, logvar)
    x = latent.sample(jax.random.key(0))
    assert x.mean() == pytest.approx(3.0, abs=0.02)
    assert x.std() == pytest.approx(np.exp(-1.0), rel=0.02)
    np.testing.assert_array_equal(latent.mode(), mean)


def test_log_variance_is_clamped():
    moments = jnp.concatenate(
        [jnp.zeros((1, 1, 2, 1)), jnp.array([-99.0, 99.0]).reshape(1, 1, 2, 1)], -1
    )
    np.testing.assert_array_equal(
        Gaussian.from_moments(moments).logvar.ravel(), [-30.0, 20.0]
    )


def test_kl_is_zero_for_the_standard_normal_and_sums_over_dimensions():
    zero, one = jnp.zeros((2, 4, 5, 3)), jnp.ones((2, 4, 5, 3))
    np.testing.assert_array_equal(Gaussian(zero, zero).kl(), [0, 0])
    np.testing.assert_allclose(Gaussian(one, zero).kl(), [30, 30])


def test_a_code_has_nothing_to_sample():
    z = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
    code = Code(z)
    np.testing.assert_array_equal(code.sample(jax.random.key(1)), z)
    np.testing.assert_array_equal(code.mode(), z)
