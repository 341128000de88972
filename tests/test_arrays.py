"""Interpolation between noises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.arrays import slerp

X, Y = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 4))


def lengths(x):
    return np.linalg.norm(np.asarray(x).reshape(len(x), -1), axis=1)


def test_the_ends_are_the_two_noises():
    np.testing.assert_allclose(slerp(X, Y, 0.0), X, atol=1e-6)
    np.testing.assert_allclose(slerp(X, Y, 1.0), Y, atol=1e-6)


def test_a_quarter_turn_is_followed_at_equal_speed():
    x, y = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
    for weight in (0.25, 0.5, 0.9):
        angle = weight * np.pi / 2
        expected = [[2 * np.cos(angle), 2 * np.sin(angle)]]
        np.testing.assert_allclose(slerp(x, y, weight), expected, rtol=1e-5)


def test_noise_between_keeps_the_length_of_noise():
    assert np.all(lengths((X + Y) / 2) < 0.75 * lengths(X))
    np.testing.assert_allclose(lengths(slerp(X, Y, 0.5)), lengths(X), rtol=0.1)


def test_each_example_turns_by_its_own_weight():
    weights = jnp.array([0.1, 0.5, 0.8])
    together = slerp(X, Y, weights)
    for k, weight in enumerate(weights):
        alone = slerp(X[k : k + 1], Y[k : k + 1], weight)
        np.testing.assert_allclose(together[k : k + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
def test_vectors_without_a_plane_are_interpolated_linearly(factor):
    expected = 0.7 * X + 0.3 * factor * X
    np.testing.assert_allclose(slerp(X, factor * X, 0.3), expected, atol=1e-5)


@pytest.mark.parametrize(
    "y",
    [X, -X, 0 * X, X + 1e-4 * Y, Y],
    ids=str.split("parallel opposite zero near apart"),
)
def test_derivatives_are_finite_everywhere(y):
    slopes = jax.grad(lambda *args: slerp(*args).sum(), argnums=(0, 1, 2))(X, y, 0.3)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_the_dtype_is_kept():
    assert (
        slerp(X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16), 0.3).dtype == "bfloat16"
    )
