"""3x3 pooling and resizing against torch and Pillow."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.features.pooling import average_pool, max_pool
from ldm_jax.features.resize import bicubic, bilinear_tf1

torch = pytest.importorskip("torch")
F = torch.nn.functional


def maps(height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    return x, torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def pixels(height, width):
    random = np.random.default_rng(1)
    return random.integers(0, 256, (2, height, width, 3), np.uint8)


def nhwc(x):
    return x.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(1, 2), (7, 10)])
def test_average_pool_counts_only_what_is_in_the_image(size):
    x, theirs = maps(*size)
    expected = F.avg_pool2d(theirs, 3, 1, 1, count_include_pad=False)
    np.testing.assert_allclose(average_pool(x), nhwc(expected), atol=1e-6)


@pytest.mark.parametrize("stride, padding", [(2, 0), (1, 1)])
def test_max_pool_equals_torchs(stride, padding):
    x, theirs = maps(7, 10)
    expected = F.max_pool2d(theirs - 5, 3, stride, padding)  # padding zeros would win
    actual = max_pool(x - 5, stride=stride, padding=padding)
    np.testing.assert_array_equal(actual, nhwc(expected))


@pytest.mark.parametrize("size", [(1, 2), (61, 47), (299, 301), (389, 451)])
def test_the_tensorflow_resize_equals_torch_fidelitys_exactly(size):
    from tests.parity.torch_inception import torch_resize

    x = pixels(*size)
    expected = torch_resize(x, 299)
    np.testing.assert_array_equal(bilinear_tf1(x, 299), expected)


@pytest.mark.parametrize("size", [(64, 64), (301, 451)])
def test_the_bicubic_resize_equals_pillows_on_float_images(size):
    x = pixels(*size)
    expected = np.empty((2, 224, 160, 3), np.float32)
    for index in np.ndindex(2, 3):
        channel = Image.fromarray(x[index[0], :, :, index[1]].astype(np.float32))
        resized = channel.resize((160, 224), Image.Resampling.BICUBIC)
        expected[index[0], :, :, index[1]] = np.asarray(resized)
    np.testing.assert_allclose(bicubic(x, 224, 160), expected, atol=2e-3)
