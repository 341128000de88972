import pickle
import sys

import cv2
import numpy as np
import pytest
import torch

from ldm_jax.data.degradations import DEGRADATIONS
from ldm_jax.data.degradations.low_res import LowRes
from ldm_jax.data.degradations.resizing import crop_to_multiple, opencv


def picture(height, width, seed=0):
    """Smooth colours with some grain."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(30, 226, (4, 4, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def degrade(name, pixels, factor=4, seed=0):
    return DEGRADATIONS[name](pixels, factor, np.random.default_rng(seed))


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize(
    "shape", [(32, 32), (40, 24), (24, 41), (33, 50), (4, 4), (5, 7), (4, 64), (7, 30)]
)
def test_the_result_has_the_size_divided_by_the_factor(name, shape):
    for factor in (1, 2, 3, 4):
        for seed in range(4):
            small = degrade(name, picture(*shape), factor, seed)
            assert small.shape == (shape[0] // factor, shape[1] // factor, 3)
            assert small.dtype == np.uint8


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_same_seed_gives_the_same_picture(name):
    first, second = (degrade(name, picture(36, 52), seed=7) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_only_bsrgan_takes_random_numbers(name):
    generator = np.random.default_rng(3)
    DEGRADATIONS[name](picture(32, 32), 4, generator)
    untouched = generator.random() == np.random.default_rng(3).random()
    assert untouched != name.startswith("bsrgan")


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_colours_stay_where_they_are(name):
    """Red on the left, blue below: no channel, no axis is exchanged."""
    pixels = np.full((64, 48, 3), 60, np.uint8)
    pixels[:, :24, 0] = 200
    pixels[32:, :, 2] = 200
    small = np.mean(
        [degrade(name, pixels, seed=seed) for seed in range(12)], axis=0
    ).astype(np.float32)
    expected = pixels[::4, ::4].astype(np.float32)
    inner = np.ix_([3, 12], [2, 9])
    np.testing.assert_allclose(small[inner], expected[inner], atol=20)


def test_bicubic_is_pillows_which_filters():
    pixels = picture(36, 52)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        image, (9, 13), mode="bicubic", antialias=True
    )
    expected = expected[0].permute(1, 2, 0).clip(0, 255).numpy()
    for name in ("bicubic", "pil_bicubic"):
        np.testing.assert_allclose(degrade(name, pixels), expected, atol=1.01)


def test_resizes_without_filter_pick_pixels_and_those_with_one_average_them():
    pixels = picture(32, 40)
    blocks = pixels.reshape(8, 4, 10, 4, 3)
    np.testing.assert_array_equal(degrade("cv_nearest", pixels), pixels[::4, ::4])
    np.testing.assert_array_equal(degrade("pil_nearest", pixels), pixels[2::4, 2::4])
    between = blocks[:, 1:3, :, 1:3].mean((1, 3))
    np.testing.assert_allclose(degrade("cv_bilinear", pixels), between, atol=0.51)
    for name in ("cv_area", "pil_box"):
        mean = blocks.mean((1, 3))
        np.testing.assert_allclose(degrade(name, pixels), mean, atol=1.01)
    for name, flag in (("bicubic", cv2.INTER_CUBIC), ("lanczos", cv2.INTER_LANCZOS4)):
        expected = cv2.resize(pixels, (10, 8), interpolation=flag)
        np.testing.assert_array_equal(degrade(f"cv_{name}", pixels), expected)


def test_the_cut_keeps_the_upper_left_of_pictures_that_are_not_square():
    """The reference limits the height by the width: 40x24 would become 24x24 there."""
    pixels = picture(42, 27)
    np.testing.assert_array_equal(crop_to_multiple(pixels, 4), pixels[:40, :24])


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_picture_smaller_than_the_factor_is_refused(name):
    with pytest.raises(ValueError, match="3x9 cannot be reduced 4 times"):
        degrade(name, picture(3, 9))


@pytest.mark.parametrize("name", ["bicubic", "bsrgan", "bsrgan_light", "cv_area"])
def test_low_res_adds_the_small_picture_in_the_same_range(name):
    pixels = picture(32, 48)
    image = pixels.astype(np.float32) / 127.5 - 1
    transform = pickle.loads(pickle.dumps(LowRes(name, 4)))
    result = transform({"image": image, "index": 5}, np.random.default_rng(1))
    assert result["index"] == 5 and result["image"] is image
    assert result["low_res"].dtype == np.float32
    expected = degrade(name, pixels, seed=1) / 127.5 - 1
    np.testing.assert_allclose(result["low_res"], expected, atol=1e-6)


def test_an_unknown_degradation_names_those_there_are():
    with pytest.raises(ValueError, match="'blur': choose one of bicubic, bsrgan"):
        LowRes("blur", 4)
    with pytest.raises(ValueError, match="factor=0"):
        LowRes("bicubic", 0)


def test_without_opencv_the_sentence_says_what_to_install(monkeypatch):
    opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install \"ldm-jax\[sr\]\""):
        LowRes("bsrgan_light", 4)
    assert LowRes("bicubic", 4).factor == 4
    opencv.cache_clear()
