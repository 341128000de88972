"""Resampling functions against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.convolution import Conv
from ldm_jax.nn.resample import (
    Downsample,
    Upsample,
    average_pool,
    upsample_nearest,
)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_functions_match_torch(size):
    torch = pytest.importorskip("torch")
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    x_torch = torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())
    up = torch.nn.functional.interpolate(x_torch, scale_factor=2, mode="nearest")
    down = torch.nn.functional.avg_pool2d(x_torch, 2)
    np.testing.assert_array_equal(upsample_nearest(x), up.permute(0, 2, 3, 1))
    np.testing.assert_allclose(average_pool(x), down.permute(0, 2, 3, 1), atol=1e-6)


def test_odd_sizes_round_down_or_up_with_the_padding():
    x = jnp.zeros((1, 7, 9, 4))
    shape = {}
    for padding in (((0, 1), (0, 1)), 1):
        y, _ = Downsample(padding).init_with_output(jax.random.key(0), x)
        shape[padding] = y.shape
    assert shape == {((0, 1), (0, 1)): (1, 3, 4, 4), 1: (1, 4, 5, 4)}


@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (1, 1, 1, 4), (1, 2, 3, 24)])
def test_upsampling_is_a_convolution_of_repeated_pixels(shape):
    """And so are its gradients."""
    key, *keys = jax.random.split(jax.random.key(0), 4)
    x, module = jax.random.normal(key, shape), Upsample()
    params = module.init(keys[0], x)["params"]
    params["conv"]["bias"] = jax.random.normal(keys[1], shape[-1:])
    conv = Conv(shape[-1], padding=1)

    def repeated(params, x):
        return conv.apply({"params": params["conv"]}, upsample_nearest(x))

    y, pullback = jax.vjp(
        lambda params, x: module.apply({"params": params}, x), params, x
    )
    expected, expected_pullback = jax.vjp(repeated, params, x)
    assert y.shape == (shape[0], 2 * shape[1], 2 * shape[2], shape[-1])
    np.testing.assert_allclose(y, expected, atol=2e-6)
    g = jax.random.normal(keys[2], y.shape)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        pullback(g),
        expected_pullback(g),
    )
