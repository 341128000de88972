"""Every operation against an independent reference."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.interpolate import RegularGridInterpolator

from ldm_jax.data.degradations.kernels import (
    anisotropic_kernel,
    isotropic_kernel,
    shifted_kernel,
)
from ldm_jax.data.degradations.steps import (
    AnisotropicBlur,
    ColorNoise,
    CorrelatedNoise,
    GreyNoise,
    IsotropicBlur,
    Jpeg,
    Resize,
    Shrink,
    Subsample,
    convolve,
    to_pixels,
)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def smooth_image(height, width, seed=0):
    blurred = ndimage.gaussian_filter(random_image(height, width, seed), (3, 3, 0))
    return (blurred - blurred.min()) / np.ptp(blurred)


@pytest.mark.parametrize("size", [5, 6, 14, 25])
def test_anisotropic_kernels_are_normal_densities(size):
    variances, angle = (5.0, 0.7), 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    density = stats.multivariate_normal(cov=turn @ np.diag(variances) @ turn.T)
    offsets = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(offsets, offsets)
    expected = density.pdf(np.stack([x, y], -1))
    kernel = anisotropic_kernel(size, variances, angle)
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("size", [5, 6, 7, 25])
def test_isotropic_kernels_are_normal_densities(size):
    same = anisotropic_kernel(size, (1.3**2, 1.3**2), 1.0)
    np.testing.assert_allclose(isotropic_kernel(size, 1.3), same, atol=1e-12)


@pytest.mark.parametrize("size", [6, 7])
def test_kernels_of_vanishing_width_hit_the_pixels_nearest_to_the_centre(size):
    """The reference divides by zero here, or blackens the picture."""
    around = slice((size - 1) // 2, size // 2 + 1)
    expected = np.zeros((size, size))
    expected[around, around] = 1 / expected[around, around].size
    for kernel in (
        isotropic_kernel(size, 0.0),
        isotropic_kernel(size, 1e-3),
        anisotropic_kernel(size, (1e-5, 1e-5), 0.0),
    ):
        np.testing.assert_allclose(kernel, expected, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("sigma", [0.1, 0.9, 2.4, 9.0])
def test_the_shifted_kernel_is_the_bilinear_interpolation_of_the_kernel(factor, sigma):
    taps, shift = np.arange(25.0), (factor - 1) / 2
    bilinear = RegularGridInterpolator((taps, taps), isotropic_kernel(25, sigma))
    at = np.minimum(taps + shift, 24)
    expected = bilinear(np.stack(np.meshgrid(at, at, indexing="ij"), -1))
    kernel = shifted_kernel(25, sigma, factor)
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("size", [5, 6, 11, 14, 25])
@pytest.mark.parametrize("shape", [(40, 29), (8, 8), (1, 3), (1, 1)])
def test_convolution_is_scipys_with_mirrored_border(size, shape):
    kernel = np.random.default_rng(1).random((size, size))
    kernel /= kernel.sum()
    image = random_image(*shape)
    expected = ndimage.convolve(image, kernel[..., None], mode="mirror")
    np.testing.assert_allclose(convolve(image, kernel), expected, atol=2e-6)


def test_blurs_convolve_with_their_kernels():
    image = random_image(30, 20)
    kernel = anisotropic_kernel(9, (4.0, 0.5), 2.0)
    expected = ndimage.convolve(image, kernel[..., None], mode="mirror")
    blurred = AnisotropicBlur(9, (4.0, 0.5), 2.0)(image)
    np.testing.assert_allclose(blurred, expected, atol=2e-6)
    expected = ndimage.gaussian_filter(image, (1.1, 1.1, 0), mode="mirror", radius=7)
    np.testing.assert_allclose(IsotropicBlur(15, 1.1)(image), expected, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_subsampling_takes_the_middle_of_every_block(factor):
    ramp = np.linspace(0.1, 0.9, 96, dtype=np.float32)
    image = np.broadcast_to(ramp[:, None, None], (96, 96, 3)).copy()
    small = Subsample(0.8, factor)(image)
    blocks = image.reshape(96 // factor, factor, 96 // factor, factor, 3).mean((1, 3))
    inner = slice(14 // factor + 1, -14 // factor - 1)
    np.testing.assert_allclose(small[inner, inner], blocks[inner, inner], atol=1e-5)
    np.testing.assert_allclose(
        Subsample(0.8, factor)(image.swapaxes(0, 1)), small.swapaxes(0, 1), atol=1e-6
    )


@pytest.mark.parametrize("shape", [(64, 48), (30, 22), (4, 4), (2, 2)])
def test_antialiased_halving_is_torchs_and_matlabs_bicubic(shape):
    image = random_image(*shape)
    small = Shrink(2.0, "antialiased_cubic")(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    half = shape[0] // 2, shape[1] // 2
    expected = torch.nn.functional.interpolate(
        tensor, half, mode="bicubic", antialias=True
    )
    expected = expected[0].permute(1, 2, 0).clip(0, 1).numpy()
    np.testing.assert_allclose(small, expected, atol=1e-5)


def test_matlabs_formula_holds_away_from_the_border():
    """Keys' cubic of a = -0.5, twice as wide: 8 taps at distances +-0.25, ..., 1.75."""
    image = random_image(40, 40)
    x = (np.arange(8) - 3.5) / 2
    near = 1.5 * abs(x) ** 3 - 2.5 * x**2 + 1
    far = -0.5 * abs(x) ** 3 + 2.5 * x**2 - 4 * abs(x) + 2
    taps = np.where(abs(x) <= 1, near, far) / 2
    np.testing.assert_allclose(taps.sum(), 1)
    rows = sum(tap * image[i + 1 : i + 32 : 2] for i, tap in enumerate(taps))
    expected = sum(tap * rows[:, i + 1 : i + 32 : 2] for i, tap in enumerate(taps))
    small = Shrink(2.0, "antialiased_cubic")(image)[2:-2, 2:-2]
    np.testing.assert_allclose(small, np.clip(expected, 0, 1), atol=1e-5)


def test_resizes_are_opencvs_clipped():
    image = (random_image(31, 22) > 0.5).astype(np.float32)  # cubic overshoots
    flags = {
        "linear": cv2.INTER_LINEAR,
        "cubic": cv2.INTER_CUBIC,
        "area": cv2.INTER_AREA,
    }
    for name, flag in flags.items():
        for height, width in ((8, 5), (60, 70)):
            expected = cv2.resize(image, (width, height), interpolation=flag)
            resized = Resize(height, width, name)(image)
            np.testing.assert_array_equal(resized, np.clip(expected, 0, 1))
    assert Shrink(3.3, "linear")(image).shape == (9, 6, 3)
    assert Shrink(7.9, "cubic")(random_image(4, 31)).shape == (1, 3, 3)


def test_colour_noise_is_white_and_grey_noise_is_equal_in_all_channels():
    image = np.full((128, 128, 3), 0.5, np.float32)
    noise = (ColorNoise(12, seed=3)(image) - image).reshape(-1, 3) * 255
    tolerance = 5 * 144 * np.sqrt(2 / len(noise))
    np.testing.assert_allclose(np.cov(noise.T), 144 * np.eye(3), atol=tolerance)
    assert abs(noise.mean()) < 5 * 12 / np.sqrt(noise.size)
    grey = (GreyNoise(12, seed=3)(image) - image).reshape(-1, 3) * 255
    np.testing.assert_array_equal(grey[:, :1], grey[:, 1:2])
    np.testing.assert_allclose(grey[:, 0].var(), 144, atol=tolerance)
    assert stats.kstest(grey[:, 0] / 12, "norm").pvalue > 1e-3


def test_correlated_noise_has_its_covariance():
    image = np.full((128, 128, 3), 0.5, np.float32)
    covariance = np.array([[3.0, 1.0, 0.5], [1.0, 2.0, 0.2], [0.5, 0.2, 1.0]]) * 1e-3
    step = CorrelatedNoise(tuple(map(tuple, covariance.tolist())), seed=5)
    noise = (step(image) - image).reshape(-1, 3)
    tolerance = 5 * covariance.max() * np.sqrt(2 / len(noise))
    np.testing.assert_allclose(np.cov(noise.T), covariance, atol=tolerance)
    np.testing.assert_array_equal(step(image), step(image))


def test_noise_is_clipped():
    white = ColorNoise(25, seed=0)(np.ones((16, 16, 3), np.float32))
    assert white.max() == 1 and white.min() < 1


@pytest.mark.parametrize("quality", [30, 80, 95])
def test_jpeg_is_opencvs_of_that_quality(quality):
    image = smooth_image(48, 40)
    encoded = cv2.imencode(
        ".jpg",
        cv2.cvtColor(to_pixels(image), cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, quality],
    )[1]
    expected = cv2.cvtColor(cv2.imdecode(encoded, 1), cv2.COLOR_BGR2RGB)
    difference = np.abs(Jpeg(quality)(image) * 255 - expected)
    assert difference.max() <= 4 and difference.mean() < 0.5  # decoders may round
    assert np.abs(expected - image * 255).mean() > 2 * difference.mean()
