"""LPIPS against the PyPI package, and on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.features import vgg
from ldm_jax.features.lpips import lpips

torch = pytest.importorskip("torch")

from tests.parity.torch_lpips import lpips_params, torch_lpips


def images(size, seed=0):
    """A smooth image and a disturbed copy, [2, *size, 3] in [-1, 1]."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(-1, 1, (2, 5, 5, 3)).astype(np.float32)
    x = np.asarray(jax.image.resize(coarse, (2, *size, 3), "linear"))
    y = np.clip(x + random.normal(0, 0.2, x.shape), -1, 1).astype(np.float32)
    return x, y


def to_torch(x):
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())


distance = jax.jit(lpips, static_argnames="dtype")


@jax.jit
def value_and_gradients(params, x, y):
    def total(x, y):
        each = lpips(params, x, y)
        return each.sum(), each

    (_, each), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(x, y)
    return each, *gradients


@pytest.fixture(scope="module")
def ours():
    return value_and_gradients(lpips_params(), *images((32, 32)))


@pytest.fixture(scope="module")
def theirs():
    x, y = (to_torch(image) for image in images((32, 32)))
    x.requires_grad_()
    each = torch_lpips()(x, y)
    each.sum().backward()
    gradient = x.grad.numpy().transpose(0, 2, 3, 1)
    return each.detach().numpy().ravel(), gradient


def test_distance_equals_the_torch_package(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4)
    assert np.all(theirs[0] > 1e-3)


@pytest.mark.parametrize("size", [(16, 16), (33, 50)])
def test_distance_equals_the_torch_package_at_odd_sizes(size):
    x, y = images(size)
    expected = torch_lpips()(to_torch(x), to_torch(y)).numpy().ravel()
    actual = distance(lpips_params(), x, y)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_gradient_with_respect_to_the_image_equals_torchs(ours, theirs):
    error = np.abs(ours[1] - theirs[1]).max() / np.abs(theirs[1]).max()
    assert error < 1e-4


def test_the_target_receives_no_gradient(ours):
    assert np.all(ours[2] == 0)


def test_equal_images_have_distance_and_gradient_zero():
    x, _ = images((32, 32))
    each, gradient, _ = value_and_gradients(lpips_params(), x, x)
    assert np.all(each < 1e-12) and np.all(np.abs(gradient) < 1e-6)


def test_features_that_are_all_off_have_a_finite_gradient():
    params = jax.tree.map(np.zeros_like, lpips_params())
    _, gradient, _ = value_and_gradients(params, *images((32, 32)))
    assert np.all(np.isfinite(gradient))


def test_bfloat16_features_stay_close(ours):
    rough = distance(lpips_params(), *images((32, 32)), dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, ours[0], rtol=0.03)


def test_small_and_large_grids_convolve_alike(monkeypatch):
    random = np.random.default_rng(0)
    x, kernel, bias = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((2, 3, 5, 4), (3, 3, 4, 6), (6,))
    )
    params = {"kernel": kernel, "bias": bias}
    expected = vgg.convolve(params, x)
    monkeypatch.setattr(vgg, "_TINY_GRID", 1)
    np.testing.assert_allclose(vgg.convolve(params, x), expected, atol=1e-5)


def test_images_of_two_shapes_or_too_small_are_refused():
    x, y = images((16, 16))
    with pytest.raises(ValueError, match="one shape"):
        lpips(lpips_params(), x, y[:1])
    with pytest.raises(ValueError, match="at least 16 pixels.*12x16"):
        lpips(lpips_params(), x[:, :12], y[:, :12])
