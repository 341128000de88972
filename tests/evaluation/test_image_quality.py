"""PSNR and SSIM against scikit-image on real pictures."""

import jax
import numpy as np
import pytest

from ldm_jax.data.sources import open_source
from ldm_jax.evaluation.image_quality import psnr, ssim

metrics = pytest.importorskip("skimage.metrics")


def pairs():
    """Emoji and noisy, blurred and unrelated others, [4 50 64 3] in [-1, 1]."""
    source = open_source("emoji64:val")
    pixels = np.stack([source[i]["image"][:50] for i in (3, 40, 80, 120)])
    image = pixels.astype(np.float32) / 127.5 - 1
    noise = np.random.default_rng(0).normal(0, 0.1, image.shape)
    other = np.clip(image + noise, -1, 1).astype(np.float32)
    other[1] = (image[1] + np.roll(image[1], 1, axis=0)) / 2
    other[2] = image[3]
    return image, other


def test_ssim_equals_scikit_image():
    x, y = pairs()
    ours = jax.jit(ssim)(x, y)
    theirs = [
        metrics.structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=2,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(x, y, strict=True)
    ]
    assert min(theirs) < 0.6 and max(theirs) > 0.7
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)


def test_psnr_equals_scikit_image():
    x, y = pairs()
    theirs = [
        metrics.peak_signal_noise_ratio(a, b, data_range=2)
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(psnr(x, y), theirs, rtol=1e-5)


def test_pictures_smaller_than_the_window_are_refused():
    x = np.zeros((1, 10, 64, 3), np.float32)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x, x)
