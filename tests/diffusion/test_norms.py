"""Distances of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import NORMS

DIFFERENCE = 2 * jax.random.normal(jax.random.key(0), (3, 4, 4, 2))


def per_image(x):
    return np.asarray(x, np.float64).reshape(3, -1).mean(1)


@pytest.mark.parametrize("delta", [0.1, 1.0, 10.0])
def test_huber_equals_torchs(delta):
    torch = pytest.importorskip("torch")
    loss = torch.nn.HuberLoss(delta=delta, reduction="none")
    theirs = loss(torch.tensor(np.asarray(DIFFERENCE)), torch.zeros(DIFFERENCE.shape))
    ours = NORMS["huber"](delta)(DIFFERENCE)
    np.testing.assert_allclose(ours, per_image(theirs.numpy()), rtol=1e-5)


def test_l1_and_l2_are_means_over_each_image():
    d = np.asarray(DIFFERENCE)
    np.testing.assert_allclose(NORMS["l1"]()(DIFFERENCE), per_image(abs(d)), rtol=1e-6)
    np.testing.assert_allclose(NORMS["l2"]()(DIFFERENCE), per_image(d**2), rtol=1e-6)


def test_pseudo_huber_is_that_of_consistency_training_over_the_root_of_the_size():
    """Song & Dhariwal 2024: sqrt(|d|^2 + c^2) - c with c = 0.00054 sqrt(dimensions)."""
    d = np.asarray(DIFFERENCE, np.float64).reshape(3, -1)
    c = 0.00054 * 32**0.5
    expected = np.sqrt((d**2).sum(1) + c**2) - c
    ours = NORMS["pseudo_huber"]()(DIFFERENCE)
    np.testing.assert_allclose(32**0.5 * ours, expected, rtol=1e-5)


def test_large_bounds_give_squared_differences_back():
    l2 = NORMS["l2"]()(DIFFERENCE)
    np.testing.assert_allclose(2 * NORMS["huber"](1e3)(DIFFERENCE), l2, rtol=1e-6)
    np.testing.assert_allclose(
        2e3 * NORMS["pseudo_huber"](1e3)(DIFFERENCE), l2, rtol=1e-4
    )


@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_finite_where_nothing_differs(name):
    norm = NORMS[name]()
    gradient = jax.grad(lambda d: norm(d).sum())(jnp.zeros((2, 4, 4, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["huber", "pseudo_huber"])
def test_a_bound_that_is_not_positive_is_refused(name):
    with pytest.raises(ValueError, match="give a positive number"):
        NORMS[name](0.0)
