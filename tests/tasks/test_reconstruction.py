"""The reconstruction loss and its perceptual crop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.tasks.reconstruction import (
    ReconstructionLoss,
    random_crops,
    reconstruction_loss,
)

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (2, 16, 16, 3), minval=-1, maxval=1)
Y = X + 0.3


def loss_of(**config):
    config = {"perceptual_weight": 0, **config}
    return reconstruction_loss(ReconstructionLoss(**config), {}, Y, X, KEY)[0]


def test_sum_counts_every_element_of_an_image_and_mean_none():
    elements = 16 * 16 * 3
    np.testing.assert_allclose(loss_of(nll_reduction="sum"), 0.3 * elements, rtol=5e-5)
    np.testing.assert_allclose(loss_of(nll_reduction="mean"), 0.3, rtol=5e-5)
    l2 = loss_of(nll_reduction="mean", pixel_loss="l2")
    np.testing.assert_allclose(l2, 0.09, rtol=5e-5)


def test_logvar_divides_and_is_added():
    loss = loss_of(nll_reduction="mean", logvar=0.5)
    np.testing.assert_allclose(loss, 0.3 / np.exp(0.5) + 0.5, rtol=5e-5)


def test_crops_are_the_same_square_of_both_images_at_places_that_vary():
    ramp = jnp.arange(64 * 20 * 24, dtype=jnp.float32).reshape(64, 20, 24, 1)
    a, b = random_crops(KEY, 8, ramp, -ramp)
    assert a.shape == (64, 8, 8, 1)
    np.testing.assert_array_equal(a, -b)
    corner = np.asarray(a[:, 0, 0, 0]) - np.arange(64) * 480
    rows, columns = corner // 24, corner % 24
    assert set(rows) <= set(range(13)) and set(columns) <= set(range(17))
    assert len(set(rows)) > 8 and len(set(columns)) > 10


def test_a_crop_as_large_as_the_image_changes_nothing():
    (whole,) = random_crops(KEY, 16, X)
    np.testing.assert_array_equal(whole, X)


def test_the_perceptual_crop_reaches_lpips(monkeypatch):
    seen = []

    def spy(params, x, target, *, dtype):
        seen.append((x.shape, dtype))
        return jnp.mean(jnp.abs(x - target), axis=(1, 2, 3))

    monkeypatch.setattr("ldm_jax.tasks.reconstruction.lpips", spy)
    config = ReconstructionLoss(
        perceptual_crop=8, perceptual_dtype=jnp.bfloat16, nll_reduction="mean"
    )
    loss, metrics = reconstruction_loss(config, {"lpips": None}, Y, X, KEY)
    assert seen == [((2, 8, 8, 3), jnp.bfloat16)]
    np.testing.assert_allclose(metrics["perceptual_loss"], 0.3, rtol=5e-5)
    np.testing.assert_allclose(loss, 0.6, rtol=5e-5)


def test_wrong_settings_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="pixel_loss is 'huber': choose one of l1, l2"):
        ReconstructionLoss(pixel_loss="huber")
    with pytest.raises(ValueError, match="needs LPIPS weights"):
        loss_of(perceptual_weight=1.0)
    with pytest.raises(ValueError, match="perceptual_crop=32 is larger than the 16x16"):
        random_crops(KEY, 32, X)
