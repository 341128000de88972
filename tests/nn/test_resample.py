"""Resampling functions against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_upsample_doubles_and_keeps_channels():
    y, _ = Upsample().init_with_output(jax.random.key(0), jnp.zeros((1, 3, 5, 4)))
    assert y.shape == (1, 6, 10, 4)
